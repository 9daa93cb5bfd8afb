//! A packed weight as slices, and a product with it.

use std::ops::Range;

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

    /// Whether no word of two features straddles sub-blocks.
    pub fn is_even(&self) -> bool {
        self.in_features.is_multiple_of(2) && self.sub_block_size().is_multiple_of(2)
    }
}

/// The product with one of the weights that share an input.
pub(in crate::kernels::cpu) struct PackedProduct<'a> {
    pub weight: WeightView<'a>,
    /// Parameter id and move of each equal part of the tokens.
    pub parts: Vec<Option<(u32, Move)>>,
    /// `[T, out_features]`
    pub y: &'a mut [f32],
}
