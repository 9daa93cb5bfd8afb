//! Norm, rotation, gate and order of features: one pass over the rows each.

use rayon::prelude::*;

use super::multiversion;
use crate::arch::Activation;
use crate::kernels::{GELU_CUBIC, GELU_LINEAR};

/// Rows per task: enough work to outweigh handing it over.
const ROWS: usize = 8;

/// `y = x / √(mean(x²) + eps) · weight`, per row. `x`, `y`: `[T, hidden]`; `weight`: `[hidden]`.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let block = ROWS * weight.len();
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| rms_norm_rows(x, weight, eps, y));
}

/// Rows of heads, of which the first `2 · half` elements turn.
#[derive(Clone, Copy)]
pub(super) struct Turned {
    pub heads: usize,
    pub dim: usize,
    pub half: usize,
}

/// Half-split rotation, in place. `x`: `[T, heads, dim]`; `cos`, `sin`: `[T, half]`.
pub(super) fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], dims: Turned) {
    let angles = cos.par_chunks(ROWS * dims.half).zip(sin.par_chunks(ROWS * dims.half));
    let rows = x.par_chunks_mut(ROWS * dims.heads * dims.dim).zip(angles);
    rows.for_each(|(x, (cos, sin))| rotate_rows(x, cos, sin, dims));
}

/// `gate = activation(gate) · up`, elementwise.
pub(super) fn gate_mul(gate: &mut [f32], up: &[f32], activation: Activation) {
    const BLOCK: usize = 8192;
    let block = match activation {
        Activation::Silu => silu_mul_block,
        Activation::GeluTanh => gelu_mul_block,
    };
    gate.par_chunks_mut(BLOCK).zip(up.par_chunks(BLOCK)).for_each(|(gate, up)| block(gate, up));
}

/// `y[t, i] = x[t, order[i]]`. `x`, `y`: `[T, in_features]`.
pub(super) fn in_order(x: &[f32], order: &[i32], y: &mut [f32]) {
    let block = ROWS * order.len();
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(order.len()).zip(x.chunks_exact(order.len())) {
            for (y, feature) in y.iter_mut().zip(order) {
                *y = x[*feature as usize];
            }
        }
    });
}

multiversion! {
    fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) => rms_norm_rows_body;
}

#[inline(always)]
fn rms_norm_rows_body(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let hidden = weight.len();
    for (x, y) in x.chunks_exact(hidden).zip(y.chunks_exact_mut(hidden)) {
        let scale = 1.0 / (super::attention::dot(x, x) / hidden as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * w;
        }
    }
}

multiversion! {
    fn rotate_rows(x: &mut [f32], cos: &[f32], sin: &[f32], dims: Turned) => rotate_rows_body;
}

#[inline(always)]
fn rotate_rows_body(x: &mut [f32], cos: &[f32], sin: &[f32], Turned { heads, dim, half }: Turned) {
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

#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// eˣ within 2 units in the last place, in operations that the compiler can put into vector registers;
/// coefficients of the Cephes library's `expf`. Below −87 it gives e⁻⁸⁷, a number just above 0.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Kept where 2ⁿ is a normal number; NaN passes through both bounds.
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    // Adding and subtracting 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    // `n` lies in −126 ..= 127 after the bounds, or is NaN, which `as` makes 0.
    e * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let error = (exp(x) / x.exp() - 1.0).abs();
            assert!(error < 3e-7, "exp({x}): {error:e}");
        }
        assert!(exp(-1e30) < 2e-38 && exp(f32::NAN).is_nan());
    }
}
