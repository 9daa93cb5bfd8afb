//! A packed weight as slices, and a product with it.

use std::ops::Range;

use super::layout::LANES;
use super::transpose::transpose;
use crate::packed::PackedWeight;
use crate::zo::direction::Move;

/// A packed weight as slices; those of bytes may be longer than their contents, by less than a word.
pub(in crate::kernels::cpu) type WeightView<'a> = PackedWeight<&'a [u32], &'a [u8], &'a [f32]>;

impl WeightView<'_> {
    /// The bits of a row that hold the codes of some features.
    pub fn code_bits(&self, features: Range<usize>) -> Range<usize> {
        let (width, num_codebooks) = self.levels.kind().vectors();
        let bits = num_codebooks * self.bits as usize;
        features.start / width * bits..features.end.div_ceil(width) * bits
    }

    /// The words that hold the codes of some features of a unit: the rows from `first` on.
    pub(super) fn code_words(&self, first: usize, features: Range<usize>) -> CodeWords<'_> {
        let (bits, stride) = (self.code_bits(features), self.words_per_row());
        let words = bits.start / 32..bits.end.div_ceil(32);
        let rows = LANES.min(self.out_features - first);
        let at = first * stride + words.start..(first + rows - 1) * stride + words.end;
        CodeWords { words: &self.codes[at], rows, stride, length: words.len(), first_bit: 32 * words.start }
    }

    /// Whether no word of two features straddles sub-blocks.
    pub fn is_even(&self) -> bool {
        self.in_features.is_multiple_of(2) && self.sub_block_size().is_multiple_of(2)
    }
}

/// Words of codes of some rows.
pub(super) struct CodeWords<'a> {
    words: &'a [u32],
    rows: usize,
    /// From the words of one row to those of the next.
    stride: usize,
    /// Words of a row.
    length: usize,
    /// Number in the row of the first bit.
    pub first_bit: usize,
}

impl CodeWords<'_> {
    /// Transposes them into lanes.
    pub fn transpose(&self, out: &mut Vec<[u32; LANES]>) {
        out.resize(self.length, [0; LANES]);
        transpose(self.words, self.stride, self.rows, out);
    }
}

/// The product with one of the weights that share an input.
pub(in crate::kernels::cpu) struct PackedProduct<'a> {
    pub weight: WeightView<'a>,
    /// Parameter id and move of each equal part of the tokens.
    pub parts: Vec<Option<(u32, Move)>>,
}
