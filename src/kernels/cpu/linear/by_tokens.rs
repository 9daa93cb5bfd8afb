//! Operands of a product that contracts tokens. A word is one f32, or the bf16 of two neighbouring tokens; a last token
//! without a neighbour is paired with 0, and words of 0 fill the last tile of instructions that have tiles.

use std::mem::MaybeUninit;
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
        let features = arithmetic.features();
        let token_words = words_of_tokens(x.len() / in_features, arithmetic);
        let length = token_words * in_features;
        let write = |words: &mut [MaybeUninit<u32>]| {
            let (words, rest) = words.split_at_mut(length);
            rest.fill(MaybeUninit::new(0));
            for (slice, packed) in words.chunks_mut(SLICE * in_features).enumerate() {
                let length = packed.len() / in_features;
                packed.par_chunks_mut(COLUMNS * length).enumerate().for_each(|(chunk, packed)| {
                    let (mut rows, mut columns) = ([0; LANES * COLUMNS], [[0; LANES]; COLUMNS]);
                    let columns = &mut columns[..packed.len() / length];
                    for first in (0..length).step_by(LANES) {
                        let count = LANES.min(length - first);
                        let start = [slice * SLICE + first, chunk * COLUMNS];
                        pack(x, in_features, start, features, COLUMNS, &mut rows[..count * COLUMNS]);
                        transpose(&rows, COLUMNS, count, columns);
                        for (packed, column) in packed.chunks_exact_mut(length).zip(columns.iter()) {
                            packed[first..first + count].write_copy_of_slice(&column[..count]);
                        }
                    }
                });
            }
        };
        // SAFETY: each slice has its words of all features, and the slices are all words but the rest.
        let packed = unsafe { Rows::written(length.div_ceil(LANES), write) };
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
    /// Words that are packed together.
    const WORDS: usize = 32;
    let words = words_of_tokens(dy.len() / out_features, arithmetic);
    let write = |packed: &mut [MaybeUninit<u32>]| {
        packed.par_chunks_mut(words * LANES).enumerate().for_each(|(unit, packed)| {
            let mut rows = [0; WORDS * LANES];
            for (block, packed) in packed.chunks_mut(WORDS * LANES).enumerate() {
                let rows = &mut rows[..packed.len()];
                pack(dy, out_features, [block * WORDS, unit * LANES], arithmetic.features(), LANES, rows);
                packed.write_copy_of_slice(rows);
            }
        });
    };
    // SAFETY: each unit has the words of all tokens, and the units are all rows.
    unsafe { Rows::written(out_features.div_ceil(LANES) * words, write) }
}

/// Words of some tokens, with those of 0 behind them.
fn words_of_tokens(tokens: usize, arithmetic: Arithmetic) -> usize {
    match arithmetic.features() {
        1 => tokens,
        features => tokens.div_ceil(features).next_multiple_of(arithmetic.word_multiple()),
    }
}

multiversion! {
    /// Packs some tokens and columns of `x`, `[T, width]`, from a word and a column on, into rows of `columns` words of
    /// one f32 or the bf16 of two neighbouring tokens. Words of columns or tokens that do not exist are 0.
    fn pack(
        x: &[f32],
        width: usize,
        start: [usize; 2],
        features: usize,
        columns: usize,
        rows: &mut [u32],
    ) => pack_body;
}

#[inline(always)]
fn pack_body(
    x: &[f32],
    width: usize,
    [word, column]: [usize; 2],
    features: usize,
    columns: usize,
    rows: &mut [u32],
) {
    let (tokens, count) = (x.len() / width, columns.min(width - column));
    let of_token = |token: usize| match token < tokens {
        true => &x[token * width + column..][..count],
        false => &[],
    };
    for (word, row) in (word..).zip(rows.chunks_exact_mut(columns)) {
        row.fill(0);
        if features == 1 {
            row.iter_mut().zip(of_token(word)).for_each(|(word, x)| *word = x.to_bits());
            continue;
        }
        for (word, low) in row.iter_mut().zip(of_token(2 * word)) {
            *word = round_to_bf16(*low) >> 16;
        }
        for (word, high) in row.iter_mut().zip(of_token(2 * word + 1)) {
            *word |= round_to_bf16(*high) & 0xffff_0000;
        }
    }
}
