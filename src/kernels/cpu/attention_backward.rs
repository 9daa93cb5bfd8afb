//! The backward pass of attention, without a matrix of probabilities: they are computed again, first for each query row,
//! then for each key row over the queries that attend to it.
//!
//! ```text
//! s = scale · q·k, capped    p = exp(s − log_sum)    dp = dy·v    total = Σ_keys p · dp
//! ds = p · (dp − total) · scale · (1 − (s / cap)²)
//! dq = Σ_keys ds · k         dk = Σ_queries ds · q   dv = Σ_queries p · dy
//! ```

use std::ops::Range;

use rayon::prelude::*;

use super::attention::HeadSizes;
use super::math::{dot, exp, tanh};
use super::multiversion::multiversion;
use crate::kernels::Scores;

/// Logarithm of the sum of the exponentials of a query's scores, and its `total`.
type QuerySums = [f32; 2];

/// Writes the gradients of queries, keys and values.
///
/// # Shapes
/// `q`, `dy` and `dq`: `[T, heads, head_dim]`; `k`, `v`, `dk` and `dv`: `[S, kv_heads, head_dim]`; `bounds`: `[4 × T]`, see
/// [`KeyRanges`](crate::kernels::KeyRanges).
pub(super) fn attention_backward(
    [q, k, v, dy]: [&[f32]; 4],
    bounds: &[i32],
    sizes: HeadSizes,
    rule: Scores,
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let (row, kv_row) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    let mut sums: Vec<QuerySums> = vec![[0.0; 2]; dq.len() / sizes.head_dim];
    let rows = dq.par_chunks_mut(row).zip(sums.par_chunks_mut(sizes.heads));
    rows.with_max_len(8).enumerate().for_each_init(Vec::new, |scores, (t, (dq, sums))| {
        let bound = |i: usize| bounds[4 * t + i] as usize;
        let ranges = [bound(0)..bound(1), bound(2)..bound(3)];
        query_row(&q[t * row..][..row], [k, v], &dy[t * row..][..row], ranges, sizes, rule, scores, dq, sums);
    });
    let queries = queries_of_keys(bounds, k.len() / kv_row);
    let rows = dk.par_chunks_mut(kv_row).zip(dv.par_chunks_mut(kv_row)).with_max_len(8);
    rows.zip(&queries).enumerate().for_each(|(s, ((dk, dv), queries))| {
        let (k, v) = (&k[s * kv_row..][..kv_row], &v[s * kv_row..][..kv_row]);
        key_row([q, dy], k, v, &sums, queries, sizes, rule, dk, dv);
    });
}

/// The ranges of query rows that attend to each of `keys` key rows.
fn queries_of_keys(bounds: &[i32], keys: usize) -> Vec<Vec<Range<usize>>> {
    let mut queries: Vec<Vec<Range<usize>>> = vec![Vec::new(); keys];
    for (t, bounds) in bounds.as_chunks::<4>().0.iter().enumerate() {
        let [a, b, c, d] = bounds.map(|bound| bound as usize);
        for key in (a..b).chain(c..d) {
            match queries[key].last_mut().filter(|range| range.end == t) {
                Some(range) => range.end += 1,
                None => queries[key].push(t..t + 1),
            }
        }
    }
    queries
}

multiversion! {
    fn query_row(
        q: &[f32],
        kv: [&[f32]; 2],
        dy: &[f32],
        ranges: [Range<usize>; 2],
        sizes: HeadSizes,
        rule: Scores,
        scores: &mut Vec<[f32; 2]>,
        dq: &mut [f32],
        sums: &mut [QuerySums],
    ) => query_row_body;
}

#[allow(clippy::too_many_arguments, reason = "a kernel takes plain tensors and numbers")]
#[inline(always)]
fn query_row_body(
    q: &[f32],
    [k, v]: [&[f32]; 2],
    dy: &[f32],
    ranges: [Range<usize>; 2],
    HeadSizes { heads, kv_heads, head_dim }: HeadSizes,
    rule: Scores,
    scores: &mut Vec<[f32; 2]>,
    dq: &mut [f32],
    sums: &mut [QuerySums],
) {
    let (kv_row, share) = (kv_heads * head_dim, heads / kv_heads);
    scores.resize(ranges[0].len() + ranges[1].len(), [0.0; 2]);
    let keys = || ranges[0].clone().chain(ranges[1].clone());
    for head in 0..heads {
        let (q, dy) = (&q[head * head_dim..][..head_dim], &dy[head * head_dim..][..head_dim]);
        let column = head / share * head_dim;
        let mut max = f32::NEG_INFINITY;
        for ([score, dp], key) in scores.iter_mut().zip(keys()) {
            let at = key * kv_row + column;
            *score = rule.scale * dot(q, &k[at..][..head_dim]);
            if let Some(cap) = rule.cap {
                *score = cap * tanh(*score / cap);
            }
            *dp = dot(dy, &v[at..][..head_dim]);
            max = max.max(*score);
        }
        let (mut sum, mut total) = (0.0, 0.0);
        for [score, dp] in scores.iter() {
            let p = exp(*score - max);
            sum += p;
            total += p * *dp;
        }
        let (log_sum, total) = (max + sum.ln(), total / sum);
        sums[head] = [log_sum, total];
        let dq = &mut dq[head * head_dim..][..head_dim];
        dq.fill(0.0);
        for ([score, dp], key) in scores.iter().zip(keys()) {
            let ds = exp(*score - max) / sum * (dp - total) * slope(*score, rule);
            for (dq, k) in dq.iter_mut().zip(&k[key * kv_row + column..][..head_dim]) {
                *dq += ds * k;
            }
        }
    }
}

multiversion! {
    fn key_row(
        q_dy: [&[f32]; 2],
        k: &[f32],
        v: &[f32],
        sums: &[QuerySums],
        queries: &[Range<usize>],
        sizes: HeadSizes,
        rule: Scores,
        dk: &mut [f32],
        dv: &mut [f32],
    ) => key_row_body;
}

#[allow(clippy::too_many_arguments, reason = "a kernel takes plain tensors and numbers")]
#[inline(always)]
fn key_row_body(
    [q, dy]: [&[f32]; 2],
    k: &[f32],
    v: &[f32],
    sums: &[QuerySums],
    queries: &[Range<usize>],
    HeadSizes { heads, kv_heads, head_dim }: HeadSizes,
    rule: Scores,
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let share = heads / kv_heads;
    dk.fill(0.0);
    dv.fill(0.0);
    for t in queries.iter().cloned().flatten() {
        for head in 0..heads {
            let (at, column) = ((t * heads + head) * head_dim, head / share * head_dim);
            let (q, dy) = (&q[at..][..head_dim], &dy[at..][..head_dim]);
            let mut score = rule.scale * dot(q, &k[column..][..head_dim]);
            if let Some(cap) = rule.cap {
                score = cap * tanh(score / cap);
            }
            let [log_sum, total] = sums[t * heads + head];
            let p = exp(score - log_sum);
            let ds = p * (dot(dy, &v[column..][..head_dim]) - total) * slope(score, rule);
            let dk = &mut dk[column..][..head_dim];
            let dv = &mut dv[column..][..head_dim];
            for i in 0..head_dim {
                dk[i] += ds * q[i];
                dv[i] += p * dy[i];
            }
        }
    }
}

/// Derivative of a score with respect to the product of query and key.
#[inline(always)]
fn slope(score: f32, rule: Scores) -> f32 {
    match rule.cap {
        Some(cap) => rule.scale * (1.0 - (score / cap) * (score / cap)),
        None => rule.scale,
    }
}
