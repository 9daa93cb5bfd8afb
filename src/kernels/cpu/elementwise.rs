//! Norm, rotation, gate, permutation of features and rows written to given places: one pass over the rows each.

use rayon::prelude::*;

use super::math::{dot, exp};
use super::multiversion::multiversion;
use super::results::by_chunks;
use crate::arch::Activation;
use crate::kernels::activation::{GELU_CUBIC, GELU_LINEAR};

/// Rows per task: enough work to outweigh handing it over.
const ROWS: usize = 8;
/// Elements per task.
const BLOCK: usize = 8192;

/// `x / √(mean(x²) + eps) · weight`, per row. `x`: `[T, hidden]`; `weight`: `[hidden]`.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let block = ROWS * weight.len();
    by_chunks(x.len(), block, |index, y| rms_norm_rows(&x[index * block..][..y.len()], weight, eps, y))
}

/// Sizes of rows of heads, of which the first `2 · half` elements are rotated.
#[derive(Clone, Copy)]
pub(super) struct RotatedHeads {
    pub heads: usize,
    pub dim: usize,
    pub half: usize,
}

/// Half-split rotation, in place. `x`: `[T, heads, dim]`; `cos`, `sin`: `[T, half]`.
pub(super) fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], heads: RotatedHeads) {
    let angles = cos.par_chunks(ROWS * heads.half).zip(sin.par_chunks(ROWS * heads.half));
    let rows = x.par_chunks_mut(ROWS * heads.heads * heads.dim).zip(angles);
    rows.for_each(|(x, (cos, sin))| rotate_rows(x, cos, sin, heads));
}

/// Writes row `i` of `values` to row `rows[i]` of `into`.
pub(super) fn write_rows(into: &mut [f32], rows: &[i32], values: &[f32]) {
    let width = values.len() / rows.len().max(1);
    for (row, values) in rows.iter().zip(values.chunks_exact(width.max(1))) {
        into[*row as usize * width..][..width].copy_from_slice(values);
    }
}

/// `gate = activation(gate) · up`, elementwise.
pub(super) fn gate_mul(gate: &mut [f32], up: &[f32], activation: Activation) {
    let block = match activation {
        Activation::Silu => silu_mul_block,
        Activation::GeluTanh => gelu_mul_block,
    };
    gate.par_chunks_mut(BLOCK).zip(up.par_chunks(BLOCK)).for_each(|(gate, up)| block(gate, up));
}

/// `sum += y`
pub(super) fn add(sum: &mut [f32], y: &[f32]) {
    let blocks = sum.par_chunks_mut(BLOCK).zip(y.par_chunks(BLOCK));
    blocks.for_each(|(sum, y)| sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += y));
}

/// `y[t, i] = x[t, perm[i]]`. `x`, `y`: `[T, in_features]`.
pub(super) fn permute(x: &[f32], perm: &[i32]) -> Vec<f32> {
    by_chunks(x.len(), perm.len(), |row, y| {
        let x = &x[row * perm.len()..][..perm.len()];
        y.iter_mut().zip(perm).for_each(|(y, feature)| *y = x[*feature as usize]);
    })
}

/// `y[t, perm[i]] = x[t, i]`. `x`, `y`: `[T, in_features]`.
pub(super) fn permute_back(x: &[f32], perm: &[i32]) -> Vec<f32> {
    by_chunks(x.len(), perm.len(), |row, y| {
        let x = &x[row * perm.len()..][..perm.len()];
        x.iter().zip(perm).for_each(|(x, feature)| y[*feature as usize] = *x);
    })
}

multiversion! {
    fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) => rms_norm_rows_body;
}

#[inline(always)]
fn rms_norm_rows_body(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let hidden = weight.len();
    for (x, y) in x.chunks_exact(hidden).zip(y.chunks_exact_mut(hidden)) {
        let scale = 1.0 / (dot(x, x) / hidden as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * w;
        }
    }
}

multiversion! {
    fn rotate_rows(x: &mut [f32], cos: &[f32], sin: &[f32], heads: RotatedHeads) => rotate_rows_body;
}

#[inline(always)]
fn rotate_rows_body(
    x: &mut [f32],
    cos: &[f32],
    sin: &[f32],
    RotatedHeads { heads, dim, half }: RotatedHeads,
) {
    let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
    for (x, (cos, sin)) in x.chunks_exact_mut(heads * dim).zip(angles) {
        for x in x.chunks_exact_mut(dim) {
            let (low, high) = x[..2 * half].split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - b * sin[i];
                high[i] = b * cos[i] + a * sin[i];
            }
        }
    }
}

multiversion! {
    fn silu_mul_block(gate: &mut [f32], up: &[f32]) => silu_mul_block_body;
}

#[inline(always)]
fn silu_mul_block_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

multiversion! {
    fn gelu_mul_block(gate: &mut [f32], up: &[f32]) => gelu_mul_block_body;
}

#[inline(always)]
fn gelu_mul_block_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = *gate;
        *gate = x / (1.0 + exp(-x * (GELU_LINEAR + GELU_CUBIC * x * x))) * up;
    }
}
