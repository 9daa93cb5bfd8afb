//! Operands of a product that contracts tokens. A word is one f32, or the bf16 of two neighbouring tokens; a last token
//! without a neighbour is paired with 0, and words of 0 fill the last tile of instructions that have tiles.

use std::ops::Range;

use rayon::prelude::*;

use super::super::math::round_to_bf16;
use super::super::multiversion::multiversion;
use super::arithmetic::Arithmetic;
use super::layout::{LANES, Rows, SLICE};
use super::transpose::transpose;

/// Columns that are packed together.
const COLUMNS: usize = 64;

/// Activations with the token words of a feature one after another, in slices.
pub(super) struct InputByTokens {
    in_features: usize,
    token_words: usize,
    /// `[slices][in_features][words]`, the last slice may have fewer words.
    packed: Rows<u32>,
}

impl InputByTokens {
    /// Packs `x`, `[T, in_features]`.
    pub fn new(x: &[f32], in_features: usize, arithmetic: Arithmetic) -> Self {
        let paired;
        let rows: &[u32] = match arithmetic.features() {
            1 => bytemuck::cast_slice(x),
            _ => {
                paired = pairs(x, in_features, arithmetic.word_multiple());
                &paired
            }
        };
        let token_words = rows.len() / in_features;
        let mut packed = Rows::zeros(rows.len().div_ceil(LANES));
        let slices = packed.as_flattened_mut()[..rows.len()]
            .chunks_mut(SLICE * in_features)
            .zip(rows.chunks(SLICE * in_features));
        for (packed, rows) in slices {
            let length = rows.len() / in_features;
            packed.par_chunks_mut(COLUMNS * length).enumerate().for_each(|(chunk, packed)| {
                let mut columns = [[0u32; LANES]; COLUMNS];
                let columns = &mut columns[..packed.len() / length];
                for first in (0..length).step_by(LANES) {
                    let width = LANES.min(length - first);
                    transpose(&rows[first * in_features + chunk * COLUMNS..], in_features, width, columns);
                    for (packed, column) in packed.chunks_exact_mut(length).zip(columns.iter()) {
                        packed[first..first + width].copy_from_slice(&column[..width]);
                    }
                }
            });
        }
        Self { in_features, token_words, packed }
    }

    /// Words of a feature.
    pub fn words(&self) -> usize {
        self.token_words
    }

    /// Words of a feature in a slice.
    pub fn length(&self, slice: usize) -> usize {
        (self.token_words - slice * SLICE).min(SLICE)
    }

    /// Some features of a slice: `[columns][words]`.
    pub fn columns(&self, slice: usize, columns: &Range<usize>) -> &[u32] {
        let length = self.length(slice);
        &self.packed.as_flattened()[slice * SLICE * self.in_features + columns.start * length..]
            [..columns.len() * length]
    }
}

/// Packs `dy`, `[T, out_features]`, with the rows of a weight in the lanes: `[units][token words][LANES rows]`. Lanes
/// without a row are 0.
pub(super) fn rows_in_lanes(dy: &[f32], out_features: usize, arithmetic: Arithmetic) -> Rows<u32> {
    let paired;
    let rows: &[u32] = match arithmetic.features() {
        1 => bytemuck::cast_slice(dy),
        _ => {
            paired = pairs(dy, out_features, arithmetic.word_multiple());
            &paired
        }
    };
    let words = rows.len() / out_features;
    let mut packed = Rows::zeros(out_features.div_ceil(LANES) * words);
    packed.par_chunks_mut(words).enumerate().for_each(|(unit, packed)| {
        let first = unit * LANES;
        let width = LANES.min(out_features - first);
        for (packed, row) in packed.iter_mut().zip(rows.chunks_exact(out_features)) {
            packed[..width].copy_from_slice(&row[first..first + width]);
        }
    });
    packed
}

/// The bf16 of each two neighbouring rows as words: `[T, width]` → `[T / 2 rounded up to a multiple, width]`.
fn pairs(x: &[f32], width: usize, multiple: usize) -> Vec<u32> {
    let mut words = vec![0u32; (x.len() / width).div_ceil(2).next_multiple_of(multiple) * width];
    words.par_chunks_mut(width).zip(x.par_chunks(2 * width)).for_each(|(words, rows)| {
        let (low, high) = rows.split_at(width);
        pair(low, high, words);
    });
    words
}

multiversion! {
    /// Rounds two rows to bf16; `high` may be empty.
    fn pair(low: &[f32], high: &[f32], words: &mut [u32]) => pair_body;
}

#[inline(always)]
fn pair_body(low: &[f32], high: &[f32], words: &mut [u32]) {
    for (word, low) in words.iter_mut().zip(low) {
        *word = round_to_bf16(*low) >> 16;
    }
    for (word, high) in words.iter_mut().zip(high) {
        *word |= round_to_bf16(*high) & 0xffff_0000;
    }
}
