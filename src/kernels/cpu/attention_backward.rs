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
use super::math::{dot, exp, lanes, tanh};
use super::multiversion::multiversion;
use super::results::{Columns, zeroed};
use crate::kernels::Scores;

/// Logarithm of the sum of the exponentials of a query's scores, and its `total`.
type QuerySums = [f32; 2];

/// The gradients of queries, keys and values, each in the shape of its tensor.
///
/// # Shapes
/// `q` and `dy`: `[T, heads, head_dim]`; `k` and `v`: `[S, kv_heads, head_dim]`; `bounds`: `[4 × T]`, see
/// [`KeyRanges`](crate::kernels::KeyRanges).
pub(super) fn attention_backward(
    [q, k, v, dy]: [&[f32]; 4],
    bounds: &[i32],
    sizes: HeadSizes,
    rule: Scores,
) -> [Vec<f32>; 3] {
    let (row, kv_row) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    let mut sums: Vec<QuerySums> = vec![[0.0; 2]; q.len() / sizes.head_dim];
    let [dq, dk, dv] = [q, k, v].map(|tensor| Columns::new(tensor.len()));
    let rows = sums.par_chunks_mut(sizes.heads).with_max_len(8).enumerate();
    rows.for_each_init(Pairs::default, |pairs, (t, sums)| {
        let bound = |i: usize| bounds[4 * t + i] as usize;
        let ranges = [bound(0)..bound(1), bound(2)..bound(3)];
        // SAFETY: this task alone has row t < T.
        let dq = zeroed(unsafe { dq.part(t * row, row) });
        query_row(&q[t * row..][..row], [k, v], &dy[t * row..][..row], ranges, sizes, rule, pairs, dq, sums);
    });
    let queries = queries_of_keys(bounds, k.len() / kv_row);
    let rows = queries.par_iter().with_max_len(8).enumerate();
    rows.for_each_init(Pairs::default, |pairs, (s, queries)| {
        let (k, v) = (&k[s * kv_row..][..kv_row], &v[s * kv_row..][..kv_row]);
        // SAFETY: this task alone has row s < S.
        let [dk, dv] = [&dk, &dv].map(|out| zeroed(unsafe { out.part(s * kv_row, kv_row) }));
        key_row([q, dy], k, v, &sums, queries, sizes, rule, pairs, dk, dv);
    });
    // SAFETY: the tasks had all rows.
    [dq, dk, dv].map(|out| unsafe { out.written() })
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
        pairs: &mut Pairs,
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
    pairs: &mut Pairs,
    dq: &mut [f32],
    sums: &mut [QuerySums],
) {
    let (kv_row, share) = (kv_heads * head_dim, heads / kv_heads);
    let keys = || ranges[0].clone().chain(ranges[1].clone());
    let count = ranges[0].len() + ranges[1].len();
    pairs.resize(count);
    for head in 0..heads {
        let (q, dy) = (&q[head * head_dim..][..head_dim], &dy[head * head_dim..][..head_dim]);
        let column = head / share * head_dim;
        let both = pairs.scores.iter_mut().zip(&mut pairs.dp);
        for ((score, dp), key) in both.zip(keys()) {
            let at = key * kv_row + column;
            *score = dot(q, &k[at..][..head_dim]);
            *dp = dot(dy, &v[at..][..head_dim]);
        }
        pairs.score(rule);
        let max = pairs.scores[..count].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        pairs.scores.iter_mut().for_each(|score| *score = exp(*score - max));
        let p = &pairs.scores[..count];
        let sum: f32 = p.iter().sum();
        let total = dot(p, &pairs.dp[..count]) / sum;
        sums[head] = [max + sum.ln(), total];
        let dq = &mut dq[head * head_dim..][..head_dim];
        for (((p, dp), slope), key) in p.iter().zip(&pairs.dp).zip(&pairs.slopes).zip(keys()) {
            let ds = p / sum * (dp - total) * slope;
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
        pairs: &mut Pairs,
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
    pairs: &mut Pairs,
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let share = heads / kv_heads;
    let rows = || queries.iter().cloned().flatten();
    pairs.resize(queries.iter().map(Range::len).sum());
    for head in 0..heads {
        let column = head / share * head_dim;
        let (k, v) = (&k[column..][..head_dim], &v[column..][..head_dim]);
        let both = pairs.scores.iter_mut().zip(&mut pairs.dp);
        for ((score, dp), t) in both.zip(rows()) {
            let at = (t * heads + head) * head_dim;
            *score = dot(&q[at..][..head_dim], k);
            *dp = dot(&dy[at..][..head_dim], v) - sums[t * heads + head][1];
        }
        pairs.score(rule);
        pairs.scores.iter_mut().zip(rows()).for_each(|(score, t)| *score -= sums[t * heads + head][0]);
        pairs.scores.iter_mut().for_each(|score| *score = exp(*score));
        let (dk, dv) = (&mut dk[column..][..head_dim], &mut dv[column..][..head_dim]);
        for (((p, dp), slope), t) in pairs.scores.iter().zip(&pairs.dp).zip(&pairs.slopes).zip(rows()) {
            let at = (t * heads + head) * head_dim;
            let (q, dy) = (&q[at..][..head_dim], &dy[at..][..head_dim]);
            let ds = p * dp * slope;
            for i in 0..head_dim {
                dk[i] += ds * q[i];
                dv[i] += p * dy[i];
            }
        }
    }
}

/// Values of one query row, one for each key, or of one key row, one for each query. The lengths are rounded up to whole
/// vector registers; what lies beyond the count has no meaning.
#[derive(Default)]
struct Pairs {
    scores: Vec<f32>,
    dp: Vec<f32>,
    /// Derivatives of the scores with respect to the products of query and key.
    slopes: Vec<f32>,
}

impl Pairs {
    fn resize(&mut self, count: usize) {
        for row in [&mut self.scores, &mut self.dp, &mut self.slopes] {
            row.resize(lanes(count), 0.0);
        }
    }

    /// Turns `scores`, which hold the products of query and key, into scores, and sets their slopes.
    #[inline(always)]
    fn score(&mut self, rule: Scores) {
        let Some(cap) = rule.cap else {
            self.scores.iter_mut().for_each(|score| *score *= rule.scale);
            self.slopes.fill(rule.scale);
            return;
        };
        for (score, slope) in self.scores.iter_mut().zip(&mut self.slopes) {
            let share = tanh(rule.scale * *score / cap);
            *score = cap * share;
            *slope = rule.scale * (1.0 - share * share);
        }
    }
}
