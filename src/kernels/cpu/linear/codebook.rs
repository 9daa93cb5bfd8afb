//! Look-up of codes in a codebook, whose entries are kept as the words that weights unpack to.

use std::borrow::Cow;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::super::math::bf16_pair;
use super::codes::SliceCodes;
use super::layout::LANES;
use crate::packed::Codebook;

/// Bits of the widest pair of codes for which a table of pairs is made: it takes 256 KiB.
const PAIR_BITS: u32 = 16;

/// Most words of a codebook: an i32 is an index of each.
const MOST_WORDS: u32 = i32::MAX as u32;

/// Words of a codebook that fits one register, where registers are so wide.
const REGISTER: usize = 16;

/// Entries of codebooks as words. Words of f32 are looked up as they are. For pairs of bf16, two neighbouring codes of
/// single features are looked up as one; with several codebooks, or where a look-up in a register is faster, pairs are
/// rounded from sums in f32 instead.
pub(super) struct CodebookWords<'a> {
    /// `[num_codebooks][2^bits][width]`
    entries: Cow<'a, [u32]>,
    num_codebooks: usize,
    /// Bits of a code, or of two that are looked up as one.
    bits: u32,
    /// Words of an entry.
    width: usize,
    /// Whether pairs are rounded from f32.
    rounds: bool,
    /// Whether a codebook is looked up in a register.
    permutes: bool,
}

impl<'a> CodebookWords<'a> {
    /// Prepares a codebook, with codes of `bits` bits, for words of `features` features.
    pub fn new(codebook: Codebook<&'a [f32]>, bits: u32, features: usize) -> Self {
        let Codebook { width, num_codebooks, entries } = codebook;
        #[cfg(target_arch = "x86_64")]
        let permutes = width << bits <= REGISTER && std::arch::is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        let permutes = false;
        let pairs = width.is_multiple_of(2) || width == 1 && 2 * bits <= PAIR_BITS;
        if features == 1 || num_codebooks > 1 || permutes || !pairs {
            let entries = Cow::Borrowed(bytemuck::cast_slice(entries));
            return Self { entries, num_codebooks, bits, width, rounds: features > 1, permutes };
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
        Self { entries: Cow::Owned(entries), num_codebooks, bits, width, rounds: false, permutes }
    }

    /// Word number `word` of each row, not scaled.
    #[inline(always)]
    pub fn word(&self, slice: &SliceCodes<'_>, word: usize) -> [u32; LANES] {
        if !self.rounds {
            return self.sum(slice, word);
        }
        let (low, high) = (self.sum(slice, 2 * word), self.sum(slice, 2 * word + 1));
        let mut pair = [0u32; LANES];
        for i in 0..LANES {
            pair[i] = bf16_pair(f32::from_bits(low[i]), f32::from_bits(high[i]));
        }
        pair
    }

    /// One word of the sum of the codebooks' entries.
    #[inline(always)]
    fn sum(&self, slice: &SliceCodes<'_>, word: usize) -> [u32; LANES] {
        let (vector, j) = (word / self.width, word % self.width);
        let mut sum = self.entries(slice, vector, 0, j);
        for book in 1..self.num_codebooks {
            let entries = self.entries(slice, vector, book, j);
            for i in 0..LANES {
                sum[i] = (f32::from_bits(sum[i]) + f32::from_bits(entries[i])).to_bits();
            }
        }
        sum
    }

    /// Word `j` of the entries of one codebook for a vector.
    #[inline(always)]
    fn entries(&self, slice: &SliceCodes<'_>, vector: usize, book: usize, j: usize) -> [u32; LANES] {
        let code = slice.code(vector * self.num_codebooks + book, self.bits);
        let book = &self.entries[(book << self.bits) * self.width..][..self.width << self.bits];
        assert!(j < self.width && book.len() <= MOST_WORDS as usize);
        let mut at = [0u32; LANES];
        for i in 0..LANES {
            // The mask changes nothing, but with i32 indices the compiler uses one gather instruction for a register.
            at[i] = (code[i] * self.width as u32 + j as u32) & MOST_WORDS;
        }
        #[cfg(target_arch = "x86_64")]
        if self.permutes {
            // SAFETY: `permutes` is true only where this machine has the instructions.
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

/// `book[at]` for a book that fits one register.
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
