//! What the codes of a codebook stand for, in the words that they unpack to.

use std::borrow::Cow;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::unpack::Codes;
use super::{CodebookView, LANES};

/// Widest code, of two features together, whose table is worth making: it is 256 KiB.
const PAIR_BITS: u32 = 16;

/// Words of a book: so many that an i32 is an index.
const MOST_WORDS: u32 = i32::MAX as u32;

/// One book gives words as they are: of f32, or pairs of bf16, for which two neighbouring codes of single
/// features are looked up as one. Of several books the entries are added in f32, and their sums rounded to
/// pairs where words are such.
pub(super) struct Codebook<'a> {
    /// `[books][2^bits][width]`
    entries: Cow<'a, [u32]>,
    books: usize,
    /// Of a code, or of two together.
    bits: u32,
    /// Words of an entry.
    width: usize,
    rounds: bool,
}

impl CodebookView<'_> {
    /// Whether [`Codebook`] has a way to pairs of bf16.
    pub fn fits_bf16(self, bits: u32) -> bool {
        self.width.is_multiple_of(2) || self.width == 1 && self.books == 1 && 2 * bits <= PAIR_BITS
    }
}

impl<'a> Codebook<'a> {
    /// `features`: of a word.
    pub fn new(view: CodebookView<'a>, bits: u32, features: usize) -> Self {
        let CodebookView { width, books, entries } = view;
        if features == 1 || books > 1 {
            let entries = Cow::Borrowed(bytemuck::cast_slice(entries));
            return Self { entries, books, bits, width, rounds: features > 1 };
        }
        let mut rounded = vec![bf16::ZERO; entries.len()];
        rounded.convert_from_f32_slice(entries);
        let pair = |[low, high]: [bf16; 2]| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
        let (entries, bits, width) = if width == 1 {
            let pairs = rounded.iter().flat_map(|high| rounded.iter().map(|low| pair([*low, *high])));
            (pairs.collect(), 2 * bits, 1)
        } else {
            (rounded.as_chunks().0.iter().map(|entry| pair(*entry)).collect(), bits, width / 2)
        };
        Self { entries: Cow::Owned(entries), books, bits, width, rounds: false }
    }

    /// Word `word` of each row; not scaled.
    #[inline(always)]
    pub fn word(&self, slice: &Codes<'_>, word: usize) -> [u32; LANES] {
        if !self.rounds {
            return self.sum(slice, word);
        }
        let (mut low, mut high) = (self.sum(slice, 2 * word), self.sum(slice, 2 * word + 1));
        for sum in low.iter_mut().chain(&mut high) {
            // To the nearest bf16, ties to even; they are finite.
            *sum = sum.wrapping_add(0x7fff + (*sum >> 16 & 1));
        }
        let mut pair = [0u32; LANES];
        for i in 0..LANES {
            pair[i] = low[i] >> 16 | high[i] & 0xffff_0000;
        }
        pair
    }

    /// One word of the sum of the books' entries.
    #[inline(always)]
    fn sum(&self, slice: &Codes<'_>, word: usize) -> [u32; LANES] {
        let (vector, j) = (word / self.width, word % self.width);
        let mut sum = self.entries(slice, vector, 0, j);
        for book in 1..self.books {
            let entries = self.entries(slice, vector, book, j);
            for i in 0..LANES {
                sum[i] = (f32::from_bits(sum[i]) + f32::from_bits(entries[i])).to_bits();
            }
        }
        sum
    }

    /// Word `j` of the entries that one code of a place stands for.
    #[inline(always)]
    fn entries(&self, slice: &Codes<'_>, vector: usize, book: usize, j: usize) -> [u32; LANES] {
        let code = slice.code(vector * self.books + book, self.bits);
        let book = &self.entries[(book << self.bits) * self.width..][..self.width << self.bits];
        assert!(j < self.width && book.len() <= MOST_WORDS as usize);
        let entries = &book[j..];
        let mut found = [0u32; LANES];
        for i in 0..LANES {
            // The mask changes nothing, but only i32 indices make a single instruction of a register of these.
            let at = (code[i] * self.width as u32) & MOST_WORDS;
            // SAFETY: code < 2^bits, so at ≤ book.len() − width, which is less than book.len() − j.
            found[i] = unsafe { *entries.get_unchecked(at as usize) };
        }
        found
    }
}
