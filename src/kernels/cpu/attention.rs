//! Attention of each query row over its ranges of keys, a row of scores at a time.

use std::ops::Range;

use rayon::prelude::*;

use super::math::{dot, exp, lanes, tanh};
use super::multiversion::multiversion;
use super::results::{Columns, zeroed};
use crate::kernels::Scores;

/// Sizes of the heads of queries and keys.
#[derive(Clone, Copy)]
pub(super) struct HeadSizes {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// The attention of all rows, in the shape of `q`.
///
/// # Shapes
/// `q`: `[T, heads, head_dim]`; `k`, `v`: `[S, kv_heads, head_dim]`; `bounds`: `[4 × T]`, see
/// [`KeyRanges`](crate::kernels::KeyRanges).
pub(super) fn attention([q, k, v]: [&[f32]; 3], bounds: &[i32], sizes: HeadSizes, rule: Scores) -> Vec<f32> {
    let row = sizes.heads * sizes.head_dim;
    let y = Columns::new(q.len());
    // A few rows per task: the last rows of a long sequence cost the most.
    q.par_chunks(row).with_max_len(8).enumerate().for_each_init(Vec::new, |scores, (t, q)| {
        let bound = |i: usize| bounds[4 * t + i] as usize;
        let ranges = [bound(0)..bound(1), bound(2)..bound(3)];
        // SAFETY: this task alone has row t < T.
        let y = zeroed(unsafe { y.part(t * row, row) });
        attend_row(q, k, v, ranges, sizes, rule, scores, y);
    });
    // SAFETY: the tasks had all rows.
    unsafe { y.written() }
}

multiversion! {
    fn attend_row(
        q: &[f32],
        k: &[f32],
        v: &[f32],
        ranges: [Range<usize>; 2],
        sizes: HeadSizes,
        rule: Scores,
        scores: &mut Vec<f32>,
        y: &mut [f32],
    ) => attend_row_body;
}

#[allow(clippy::too_many_arguments, reason = "a kernel takes plain tensors and numbers")]
#[inline(always)]
fn attend_row_body(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    ranges: [Range<usize>; 2],
    HeadSizes { heads, kv_heads, head_dim }: HeadSizes,
    rule: Scores,
    scores: &mut Vec<f32>,
    y: &mut [f32],
) {
    let (kv_row, share) = (kv_heads * head_dim, heads / kv_heads);
    // Rounded up: elements that fill no vector register would be computed one by one.
    scores.resize(lanes(ranges[0].len() + ranges[1].len()), 0.0);
    let keys = || ranges[0].clone().chain(ranges[1].clone());
    for head in 0..heads {
        let q = &q[head * head_dim..][..head_dim];
        let y = &mut y[head * head_dim..][..head_dim];
        let column = head / share * head_dim;
        let mut max = f32::NEG_INFINITY;
        for (score, key) in scores.iter_mut().zip(keys()) {
            *score = rule.scale * dot(q, &k[key * kv_row + column..][..head_dim]);
            max = max.max(*score);
        }
        if let Some(cap) = rule.cap {
            scores.iter_mut().for_each(|score| *score = cap * tanh(*score / cap));
            max = cap * tanh(max / cap);
        }
        let mut sum = 0.0;
        scores.iter_mut().for_each(|score| *score = exp(*score - max));
        for (p, key) in scores.iter().zip(keys()) {
            sum += p;
            for (y, v) in y.iter_mut().zip(&v[key * kv_row + column..][..head_dim]) {
                *y += p * v;
            }
        }
        y.iter_mut().for_each(|y| *y /= sum);
    }
}
