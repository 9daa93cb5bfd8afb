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

/// Words that can be looked up without memory, where there are such registers.
const REGISTER: usize = 16;

/// Words are found as they are, f32 or pairs of bf16, for which two neighbouring codes of single features are
/// looked up as one. Where that cannot be, as with several books, or takes longer than a register's look-up,
/// pairs are rounded from sums in f32.
pub(super) struct Codebook<'a> {
    /// `[books][2^bits][width]`
    entries: Cow<'a, [u32]>,
    books: usize,
    /// Of a code, or of two together.
    bits: u32,
    /// Words of an entry.
    width: usize,
    rounds: bool,
    /// Whether a book is looked up in a register.
    permutes: bool,
}

impl<'a> Codebook<'a> {
    /// `features`: of a word.
    pub fn new(view: CodebookView<'a>, bits: u32, features: usize) -> Self {
        let CodebookView { width, books, entries } = view;
        #[cfg(target_arch = "x86_64")]
        let permutes = width << bits <= REGISTER && std::arch::is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        let permutes = false;
        let pairs = width.is_multiple_of(2) || width == 1 && 2 * bits <= PAIR_BITS;
        if features == 1 || books > 1 || permutes || !pairs {
            let entries = Cow::Borrowed(bytemuck::cast_slice(entries));
            return Self { entries, books, bits, width, rounds: features > 1, permutes };
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
        Self { entries: Cow::Owned(entries), books, bits, width, rounds: false, permutes }
    }

    /// Word `word` of each row; not scaled.
    #[inline(always)]
    pub fn word(&self, slice: &Codes<'_>, word: usize) -> [u32; LANES] {
        if !self.rounds {
            return self.sum(slice, word);
        }
        let (low, high) = (self.sum(slice, 2 * word), self.sum(slice, 2 * word + 1));
        // To the nearest bf16, ties to even; they are finite.
        let round = |sum: u32| sum.wrapping_add(0x7fff + (sum >> 16 & 1));
        let mut pair = [0u32; LANES];
        for i in 0..LANES {
            pair[i] = round(low[i]) >> 16 | round(high[i]) & 0xffff_0000;
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
        let mut at = [0u32; LANES];
        for i in 0..LANES {
            // The mask changes nothing, but only i32 indices make a single instruction of a register of these.
            at[i] = (code[i] * self.width as u32 + j as u32) & MOST_WORDS;
        }
        #[cfg(target_arch = "x86_64")]
        if self.permutes {
            // SAFETY: that is so only where this machine has the instructions.
            return unsafe { permuted(book, &at) };
        }
        let mut found = [0u32; LANES];
        for i in 0..LANES {
            // SAFETY: code < 2^bits and j < width, so at < width · 2^bits = book.len().
            found[i] = unsafe { *book.get_unchecked(at[i] as usize) };
        }
        found
    }
}

/// `book[at]`, where the book is a register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn permuted(book: &[u32], at: &[u32; LANES]) -> [u32; LANES] {
    use std::arch::x86_64::*;
    let mut found = [0u32; LANES];
    // SAFETY: the mask keeps to the words of the book.
    let book = unsafe { _mm512_maskz_loadu_epi32(((1u32 << book.len()) - 1) as u16, book.as_ptr().cast()) };
    for first in (0..LANES).step_by(16) {
        // SAFETY: sixteen words from `first` on are inside LANES.
        unsafe {
            let words = _mm512_permutexvar_epi32(_mm512_loadu_si512(at.as_ptr().add(first).cast()), book);
            _mm512_storeu_si512(found.as_mut_ptr().add(first).cast(), words);
        }
    }
    found
}
