//! The backward passes of norm and gate: one pass over the rows each.

use rayon::prelude::*;

use super::math::{dot, exp};
use super::multiversion::multiversion;
use super::results::by_chunks;
use crate::arch::Activation;
use crate::kernels::activation::{GELU_CUBIC, GELU_LINEAR};

/// Rows per task: enough work to outweigh handing it over.
const ROWS: usize = 8;

/// `dx = r · (weight ∘ dy) − x · r³ / hidden · Σ(weight ∘ dy ∘ x)` per row, where `r = 1 / √(mean(x²) + eps)`, written in
/// place of `dy`. `x`, `dy`: `[T, hidden]`; `weight`: `[hidden]`.
pub(super) fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &mut [f32]) {
    let block = ROWS * weight.len();
    dy.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(dy, x)| rms_norm_rows(x, weight, eps, dy));
}

/// Gradients of `activation(gate) · up`, written in place of both inputs.
pub(super) fn gate_mul_backward(gate: &mut [f32], up: &mut [f32], dy: &[f32], activation: Activation) {
    const BLOCK: usize = 8192;
    let block = match activation {
        Activation::Silu => silu_block,
        Activation::GeluTanh => gelu_block,
    };
    let inputs = gate.par_chunks_mut(BLOCK).zip(up.par_chunks_mut(BLOCK));
    inputs.zip(dy.par_chunks(BLOCK)).for_each(|((gate, up), dy)| block(gate, up, dy));
}

/// `sums[i] = Σ_t a[t, i] · b[t, i]`. `a`, `b`: `[T, width]`; the sums: `[width]`.
pub(super) fn sum_of_products(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    const COLUMNS: usize = 256;
    by_chunks(width, COLUMNS, |chunk, sums| {
        let (first, count) = (chunk * COLUMNS, sums.len());
        for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
            add_products(&a[first..first + count], &b[first..first + count], sums);
        }
    })
}

multiversion! {
    fn add_products(a: &[f32], b: &[f32], sums: &mut [f32]) => add_products_body;
}

#[inline(always)]
fn add_products_body(a: &[f32], b: &[f32], sums: &mut [f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum += a * b;
    }
}

multiversion! {
    fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, dy: &mut [f32]) => rms_norm_rows_body;
}

#[inline(always)]
fn rms_norm_rows_body(x: &[f32], weight: &[f32], eps: f32, dy: &mut [f32]) {
    let hidden = weight.len();
    for (x, dy) in x.chunks_exact(hidden).zip(dy.chunks_exact_mut(hidden)) {
        let r = 1.0 / (dot(x, x) / hidden as f32 + eps).sqrt();
        dy.iter_mut().zip(weight).for_each(|(dy, weight)| *dy *= weight);
        let share = r * r * r / hidden as f32 * dot(dy, x);
        dy.iter_mut().zip(x).for_each(|(dy, x)| *dy = r * *dy - share * x);
    }
}

multiversion! {
    fn silu_block(gate: &mut [f32], up: &mut [f32], dy: &[f32]) => silu_block_body;
}

#[inline(always)]
fn silu_block_body(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
        let x = *gate;
        let sigmoid = 1.0 / (1.0 + exp(-x));
        let slope = sigmoid * (1.0 + x * (1.0 - sigmoid));
        *gate = dy * *up * slope;
        *up = dy * x * sigmoid;
    }
}

multiversion! {
    fn gelu_block(gate: &mut [f32], up: &mut [f32], dy: &[f32]) => gelu_block_body;
}

#[inline(always)]
fn gelu_block_body(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
        let x = *gate;
        let sigmoid = 1.0 / (1.0 + exp(-x * (GELU_LINEAR + GELU_CUBIC * x * x)));
        let inner = GELU_LINEAR + 3.0 * GELU_CUBIC * x * x;
        let slope = sigmoid * (1.0 + x * (1.0 - sigmoid) * inner);
        *gate = dy * *up * slope;
        *up = dy * x * sigmoid;
    }
}
