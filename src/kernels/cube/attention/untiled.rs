//! Attention for heads too wide for shared memory.

use cubecl::prelude::*;

use super::queries::{LOWEST, bounded};

/// One unit per element of the result, nothing shared.
#[cube(launch)]
pub(super) fn attention<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    bounds: &Array<i32>,
    out: &mut Array<F>,
    units: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    cap: f32,
    #[comptime] capped: bool,
    #[define(F)] _f: StorageType,
) {
    let unit = ABSOLUTE_POS;
    if unit >= units {
        terminate!();
    }
    let (head, column) = (unit / head_dim, unit % head_dim);
    let row = head / heads;
    let kv_head = (head % heads) / (heads / kv_heads);

    let mut highest = LOWEST.runtime();
    let mut sum = 0.0f32;
    let mut sum_v = 0.0f32;
    #[unroll]
    for range in 0..2usize {
        let from = bounds[4 * row + 2 * range] as usize;
        let to = bounds[4 * row + 2 * range + 1] as usize;
        for key in from..to {
            let at = (key * kv_heads + kv_head) * head_dim;
            let mut score = 0.0f32;
            for d in 0..head_dim {
                score += f32::cast_from(q[head * head_dim + d]) * f32::cast_from(k[at + d]);
            }
            score = bounded(score * scale, cap, capped);
            let new_highest = max(highest, score);
            let shrink = (highest - new_highest).exp();
            let p = (score - new_highest).exp();
            highest = new_highest;
            sum = sum * shrink + p;
            sum_v = sum_v * shrink + p * f32::cast_from(v[at + column]);
        }
    }
    out[unit] = F::cast_from(sum_v / sum);
}
