//! Codes of a slice of a unit, in their bit streams.

use super::layout::LANES;
use super::scales::UnitScales;

/// Codes of some neighbouring words of a unit, the rows side by side.
pub(super) struct SliceCodes<'a> {
    /// `[words of codes]`
    pub codes: &'a [[u32; LANES]],
    /// Number in the row of the first bit in `codes`.
    pub first_bit: usize,
    /// Bits per code.
    pub bits: u32,
    /// Number in the row of the first word.
    pub first: usize,
    pub group_words: usize,
    pub scales: &'a UnitScales,
}

impl SliceCodes<'_> {
    /// Code number `index` of each row, of a stream of `bits`-wide codes.
    #[inline(always)]
    pub fn code(&self, index: usize, bits: u32) -> [u32; LANES] {
        let bit = index * bits as usize - self.first_bit;
        let (word, low, mask) = (bit / 32, (bit % 32) as u32, u32::MAX >> (32 - bits));
        let codes = &self.codes[word];
        let mut code = [0u32; LANES];
        for i in 0..LANES {
            code[i] = codes[i] >> low;
        }
        if low + bits > 32 {
            let next = &self.codes[word + 1];
            for i in 0..LANES {
                code[i] |= next[i] << (32 - low);
            }
        }
        for code in &mut code {
            *code &= mask;
        }
        code
    }
}
