//! Gradients for heads too wide for shared memory: one cube per query, then one per key, whose units share keys, or
//! queries, and then columns.

use cubecl::prelude::*;

use super::super::super::launch::CUBE;
use super::super::queries::{LOWEST, bounded};
use super::tiles::{SUMS, slope};

const UNITS: usize = CUBE as usize;

/// Sizes and features that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct WideHead {
    pub head_dim: usize,
    /// Whether scores are capped.
    pub capped: bool,
}

impl WideHead {
    /// Columns of one unit: every `UNITS`-th.
    fn columns(self) -> usize {
        self.head_dim.div_ceil(UNITS)
    }
}

#[cube(launch)]
pub(super) fn query_gradients<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    dy: &Array<F>,
    bounds: &Array<i32>,
    sums: &mut Array<f32>,
    dq: &mut Array<F>,
    queries: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] wide: WideHead,
    #[define(F)] _f: StorageType,
) {
    let head_dim = comptime!(wide.head_dim);
    let unit = UNIT_POS as usize;
    let mut shared = SharedMemory::<f32>::new(comptime!(3 * UNITS));
    let mut sum_k = zeros(wide);
    let head = CUBE_POS;
    if head < queries {
        let row = head / heads;
        let kv_head = head % heads / (heads / kv_heads);
        let mut highest = LOWEST.runtime();
        let mut sum = 0.0f32;
        let mut total = 0.0f32;
        #[unroll]
        for range in 0..2usize {
            let from = bounds[4 * row + 2 * range] as usize;
            let to = bounds[4 * row + 2 * range + 1] as usize;
            for key in range_stepped(from + unit, to, UNITS) {
                let at = (key * kv_heads + kv_head) * head_dim;
                let score =
                    bounded(product(q, head * head_dim, k, at, wide) * scale, cap, comptime!(wide.capped));
                let dp = product(dy, head * head_dim, v, at, wide);
                let new_highest = max(highest, score);
                let shrink = (highest - new_highest).exp();
                let weight = (score - new_highest).exp();
                highest = new_highest;
                sum = sum * shrink + weight;
                total = total * shrink + weight * dp;
            }
        }
        shared[unit] = highest;
        shared[UNITS + unit] = sum;
        shared[2 * UNITS + unit] = total;
        sync_cube();
        for i in 0..UNITS {
            highest = max(highest, shared[i]);
        }
        sum = 0.0f32;
        total = 0.0f32;
        for i in 0..UNITS {
            let shrink = (shared[i] - highest).exp();
            sum += shared[UNITS + i] * shrink;
            total += shared[2 * UNITS + i] * shrink;
        }
        let log_sum = highest + sum.ln();
        let total = total / sum;
        if unit == 0 {
            sums[SUMS * head] = log_sum;
            sums[SUMS * head + 1] = total;
        }
        #[unroll]
        for range in 0..2usize {
            let from = bounds[4 * row + 2 * range] as usize;
            let to = bounds[4 * row + 2 * range + 1] as usize;
            for start in range_stepped(from, to, UNITS) {
                let key = start + unit;
                let mut ds = 0.0f32;
                if key < to {
                    let at = (key * kv_heads + kv_head) * head_dim;
                    let score = bounded(
                        product(q, head * head_dim, k, at, wide) * scale,
                        cap,
                        comptime!(wide.capped),
                    );
                    let dp = product(dy, head * head_dim, v, at, wide);
                    let slope = slope(score, cap, comptime!(wide.capped));
                    ds = (score - log_sum).exp() * (dp - total) * slope * scale;
                }
                sync_cube();
                shared[unit] = ds;
                sync_cube();
                for i in 0..min(UNITS.runtime(), to - start) {
                    let at = ((start + i) * kv_heads + kv_head) * head_dim;
                    add_row(&mut sum_k, shared[i], k, at, wide);
                }
            }
        }
        store(&sum_k, dq, head, wide);
    }
}

#[cube(launch)]
pub(super) fn key_gradients<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    dy: &Array<F>,
    bounds: &Array<i32>,
    hulls: &Array<i32>,
    sums: &Array<f32>,
    dk: &mut Array<F>,
    dv: &mut Array<F>,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] wide: WideHead,
    #[define(F)] _f: StorageType,
) {
    let head_dim = comptime!(wide.head_dim);
    let unit = UNIT_POS as usize;
    let mut weights = SharedMemory::<f32>::new(comptime!(UNITS));
    let mut slopes = SharedMemory::<f32>::new(comptime!(UNITS));
    let mut sum_q = zeros(wide);
    let mut sum_dy = zeros(wide);
    let kv_place = CUBE_POS;
    if kv_place < keys {
        let (key, kv_head) = (kv_place / kv_heads, kv_place % kv_heads);
        let group = heads / kv_heads;
        let begin = hulls[2 * key] as usize * group;
        let end = hulls[2 * key + 1] as usize * group;
        let at = kv_place * head_dim;
        for start in range_stepped(begin, end, UNITS) {
            let query = start + unit;
            let mut weight = 0.0f32;
            let mut ds = 0.0f32;
            if query < end {
                let (row, head) = (query / group, query / group * heads + kv_head * group + query % group);
                let seen = key as i32;
                if (seen >= bounds[4 * row] && seen < bounds[4 * row + 1])
                    || (seen >= bounds[4 * row + 2] && seen < bounds[4 * row + 3])
                {
                    let score = bounded(
                        product(q, head * head_dim, k, at, wide) * scale,
                        cap,
                        comptime!(wide.capped),
                    );
                    let dp = product(dy, head * head_dim, v, at, wide);
                    let slope = slope(score, cap, comptime!(wide.capped));
                    weight = (score - sums[SUMS * head]).exp();
                    ds = weight * (dp - sums[SUMS * head + 1]) * slope * scale;
                }
            }
            sync_cube();
            weights[unit] = weight;
            slopes[unit] = ds;
            sync_cube();
            for i in 0..min(UNITS.runtime(), end - start) {
                let query = start + i;
                let from = (query / group * heads + kv_head * group + query % group) * head_dim;
                add_row(&mut sum_q, slopes[i], q, from, wide);
                add_row(&mut sum_dy, weights[i], dy, from, wide);
            }
        }
        store(&sum_q, dk, kv_place, wide);
        store(&sum_dy, dv, kv_place, wide);
    }
}

#[cube]
fn zeros(#[comptime] wide: WideHead) -> Array<f32> {
    let mut sums = Array::<f32>::new(comptime!(wide.columns()));
    #[unroll]
    for j in 0..comptime!(wide.columns()) {
        sums[j] = 0.0f32;
    }
    sums
}

#[cube]
fn product<F: Float>(
    a: &Array<F>,
    a_at: usize,
    b: &Array<F>,
    b_at: usize,
    #[comptime] wide: WideHead,
) -> f32 {
    let mut sum = 0.0f32;
    for d in 0..comptime!(wide.head_dim) {
        sum += f32::cast_from(a[a_at + d]) * f32::cast_from(b[b_at + d]);
    }
    sum
}

/// `sums += factor · row`
#[cube]
fn add_row<F: Float>(
    sums: &mut Array<f32>,
    factor: f32,
    row: &Array<F>,
    at: usize,
    #[comptime] wide: WideHead,
) {
    #[unroll]
    for j in 0..comptime!(wide.columns()) {
        let d = UNIT_POS as usize + j * UNITS;
        if d < comptime!(wide.head_dim) {
            sums[j] += factor * f32::cast_from(row[at + d]);
        }
    }
}

#[cube]
fn store<F: Float>(sums: &Array<f32>, out: &mut Array<F>, head: usize, #[comptime] wide: WideHead) {
    #[unroll]
    for j in 0..comptime!(wide.columns()) {
        let d = UNIT_POS as usize + j * UNITS;
        if d < comptime!(wide.head_dim) {
            out[head * comptime!(wide.head_dim) + d] = F::cast_from(sums[j]);
        }
    }
}
