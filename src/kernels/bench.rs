//! Times of single operations: the packed product under a perturbation, on made-up codes, and attention.

use std::time::Instant;

use burn::tensor::{DType, Distribution as Random, Tensor, TensorData};

use super::attention::{KeyRanges, Scores};
use super::backend::Kernels;
use super::matmul_path::MatmulPath;
use super::ops::{attention, linear_by};
use super::transfer::read;
use super::weight::DeviceWeight;
use crate::device::ComputeType;
use crate::error::Result;
use crate::packed::{Levels, PackedWeight, words_per_row};
use crate::zo::direction::{Direction, Distribution, Move, ScaleMode, Signs, coefficient};

/// Number of measurements; the shortest counts.
const RUNS: usize = 3;
/// Seconds of a measurement: long beside the wait for the device at its end.
const SECONDS: f64 = 0.01;
/// Most operations of a measurement.
const MOST: usize = 100;

/// Seconds of `x[2 · tokens, input] · W[out, input]ᵀ` by one path, the first half of the rows at one sign of a
/// perturbation and the second at the other, with 4 bits in groups of 64. `None` where the device cannot take the
/// path.
///
/// # Errors
/// A fault that the device reports.
pub fn time_linear<B: Kernels>(
    path: MatmulPath,
    [tokens, out, input]: [usize; 3],
    compute: ComputeType,
    device: &B::Device,
) -> Result<Option<f64>> {
    let words = out * words_per_row(input, 4);
    let codes = (0..words as u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
    let scales = vec![0.01; out * input.div_ceil(64)];
    let weight = PackedWeight {
        out_features: out,
        in_features: input,
        bits: 4,
        group_size: 64,
        codes,
        scales,
        levels: Levels::Zero(8),
        perm: None,
    };
    let weight = DeviceWeight::<B>::upload(weight, Some(0), compute, device);
    let (kind, mode) = (Distribution::Gaussian, ScaleMode::Relative);
    let displacement = Move {
        direction: Direction { distribution: kind, mode, seed: 1, probe: 0 },
        coefficient: coefficient(kind, 1e-2),
    };
    let x = Tensor::<B, 2>::random([2 * tokens, input], Random::Normal(0.0, 1.0), (device, DType::F32));
    let x = x.cast(B::tensor_type(compute));
    if linear_by(path, x.clone(), [&weight], Signs::Both(displacement)).is_err() {
        return Ok(None);
    }
    let time = |products: usize| -> Result<f64> {
        let clock = Instant::now();
        let mut y = None;
        for _ in 0..products {
            if let Ok([product]) = linear_by(path, x.clone(), [&weight], Signs::Both(displacement)) {
                y = Some(product);
            }
        }
        // Waits for the device.
        y.map(|y| read(y.slice([0..1, 0..1]))).transpose()?;
        Ok(clock.elapsed().as_secs_f64() / products as f64)
    };
    shortest(time).map(Some)
}

/// Seconds of one causal attention over sequences of one length, laid end to end.
///
/// # Errors
/// A fault that the device reports.
pub fn time_attention<B: Kernels>(
    [sequences, tokens]: [usize; 2],
    [heads, kv_heads, head_dim]: [usize; 3],
    compute: ComputeType,
    device: &B::Device,
) -> Result<f64> {
    let rows = sequences * tokens;
    let ranges = (0..rows).flat_map(|row| [0, 0, row / tokens * tokens, row + 1].map(|bound| bound as i32));
    let bounds = TensorData::new(ranges.collect::<Vec<_>>(), [4 * rows]);
    let keys = KeyRanges::<B> { bounds: Tensor::from_data(bounds, (device, DType::I32)) };
    let random = |heads: usize| {
        let normal = Random::Normal(0.0, 1.0);
        let x = Tensor::<B, 3>::random([rows, heads, head_dim], normal, (device, DType::F32));
        x.cast(B::tensor_type(compute))
    };
    let (q, k, v) = (random(heads), random(kv_heads), random(kv_heads));
    let scores = Scores { scale: 1.0 / (head_dim as f32).sqrt(), cap: None };
    shortest(|launches| {
        let clock = Instant::now();
        let mut out = None;
        for _ in 0..launches {
            out = Some(attention(q.clone(), k.clone(), v.clone(), &keys, scores));
        }
        out.map(|out| read(out.slice([0..1, 0..1, 0..1]))).transpose()?;
        Ok(clock.elapsed().as_secs_f64() / launches as f64)
    })
}

/// The shortest time of one operation. `time` runs a number of them, waits for the last and returns the time of one.
fn shortest(time: impl Fn(usize) -> Result<f64>) -> Result<f64> {
    // The first run compiles the kernels.
    time(1)?;
    let count = ((SECONDS / time(1)?) as usize).clamp(1, MOST);
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        best = best.min(time(count)?);
    }
    Ok(best)
}
