//! Activations in slices of the input features, with the tokens of a slice one after another.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::halves;
use super::super::multiversion::multiversion;
use super::layout::{LANES, Rows, SLICE, runs};

/// Tokens per task: enough work to outweigh handing it over.
const ROWS: usize = 32;

/// Each token's sums over the [`runs`] of groups of some size: `[slices][runs][tokens]`.
pub(super) type RunSums = Vec<Vec<f32>>;

/// Activations of all tokens as words, in slices.
pub(super) struct SlicedInput {
    pub tokens: usize,
    /// `[slices][tokens][words]`, the last slice may have fewer words.
    words: Rows<u32>,
    per_token: usize,
}

impl SlicedInput {
    /// Packs `x`, `[tokens, in_features]` with at least one token, into words of `features` features.
    pub fn new(x: &[f32], in_features: usize, features: usize) -> Self {
        let (tokens, per_token) = (x.len() / in_features, in_features / features);
        let length = tokens * per_token;
        let write = |words: &mut [MaybeUninit<u32>]| {
            let (words, rest) = words.split_at_mut(length);
            rest.fill(MaybeUninit::new(0));
            words.par_chunks_mut(tokens * SLICE).enumerate().for_each(|(slice, words)| {
                let length = words.len() / tokens;
                let rows = words.par_chunks_exact_mut(length).zip(x.par_chunks_exact(in_features));
                rows.with_min_len(ROWS).for_each(|(out, x)| {
                    let x = &x[slice * SLICE * features..][..length * features];
                    let mut rounded = [0u32; SLICE];
                    if features > 1 {
                        halves::narrow_bf16(x, bytemuck::cast_slice_mut(&mut rounded[..length]));
                    }
                    out.write_copy_of_slice(match features {
                        1 => bytemuck::cast_slice(x),
                        _ => &rounded[..length],
                    });
                });
            });
        };
        // SAFETY: each slice has the words of all tokens, and the slices are all words but the rest.
        let words = unsafe { Rows::written(length.div_ceil(LANES), write) };
        Self { tokens, words, per_token }
    }

    pub fn words(&self) -> usize {
        self.tokens * self.per_token
    }

    pub fn slices(&self) -> usize {
        self.per_token.div_ceil(SLICE)
    }

    /// Words per token in a slice.
    pub fn length(&self, slice: usize) -> usize {
        (self.per_token - slice * SLICE).min(SLICE)
    }

    pub fn slice(&self, slice: usize) -> &[u32] {
        &self.words.as_flattened()[slice * SLICE * self.tokens..][..self.length(slice) * self.tokens]
    }

    /// Sums over the groups of `group_words` words, see [`RunSums`].
    pub fn sums(&self, group_words: usize) -> RunSums {
        let slice = |slice| {
            let length = self.length(slice);
            let runs: Vec<usize> = runs(slice * SLICE, length, group_words).map(|(_, words)| words).collect();
            let mut sums = vec![0f32; runs.len() * self.tokens];
            sum_runs(self.slice(slice), length, &runs, self.tokens, &mut sums);
            sums
        };
        (0..self.slices()).into_par_iter().map(slice).collect()
    }
}

multiversion! {
    fn sum_runs(x: &[u32], length: usize, runs: &[usize], tokens: usize, sums: &mut [f32]) => sum_runs_body;
}

#[inline(always)]
fn sum_runs_body(x: &[u32], length: usize, runs: &[usize], tokens: usize, sums: &mut [f32]) {
    for (token, x) in x.chunks_exact(length).enumerate() {
        let mut start = 0;
        for (run, words) in runs.iter().enumerate() {
            let (mut partial, chunks) = ([0f32; 16], x[start..start + words].chunks_exact(16));
            let both = |pair: u32| f32::from_bits(pair << 16) + f32::from_bits(pair & 0xffff_0000);
            let tail: f32 = chunks.remainder().iter().map(|pair| both(*pair)).sum();
            for pairs in chunks {
                (0..16).for_each(|i| partial[i] += both(pairs[i]));
            }
            sums[run * tokens + token] = partial.iter().sum::<f32>() + tail;
            start += words;
        }
    }
}
