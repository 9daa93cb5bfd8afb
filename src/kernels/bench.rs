//! Times the packed product alone, with a perturbation, on made-up codes.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor};

use super::{DeviceWeight, Kernels, Path, linear_by, read};
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::packed::words_per_row;
use crate::kernels::packed::{Levels, PackedWeight};
use crate::zo::perturbation::{Noise, Perturb, Perturbation, ScaleMode, coefficient};

/// Measurements of which the shortest counts.
const RUNS: usize = 5;
/// A measurement holds so many products that waiting for the device at its end is a small part of it.
const SECONDS: f64 = 0.02;
const MOST_PRODUCTS: usize = 100;

/// The time of `x[2 · tokens, input] · W[out, input]ᵀ` by one path, the first half of the rows at one sign of
/// a perturbation, the second at the other, in seconds; 4 bits, groups of 64.
///
/// # Errors
/// What the device reports.
pub fn time_linear<B: Kernels>(
    path: Path,
    [tokens, out, input]: [usize; 3],
    compute: ComputeType,
    device: &B::Device,
) -> Result<f64> {
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
        order: None,
    };
    let weight = DeviceWeight::<B>::upload(weight, Some(0), compute, device);
    let (kind, mode) = (Perturbation::Gaussian, ScaleMode::Relative);
    let noise = Noise { kind, mode, seed: 1, probe: 0, coefficient: coefficient(kind, 1e-2) };
    let x = Tensor::<B, 2>::random([2 * tokens, input], Distribution::Normal(0.0, 1.0), (device, DType::F32));
    let x = x.cast(B::tensor_type(compute));
    let time = |products: usize| -> Result<f64> {
        let clock = Instant::now();
        let mut y = None;
        for _ in 0..products {
            let [product] = linear_by(path, x.clone(), [&weight], Perturb::BothWays(noise));
            y = Some(product);
        }
        // The device is waited for here.
        y.map(|y| read(y.slice([0..1, 0..1]))).transpose()?;
        Ok(clock.elapsed().as_secs_f64() / products as f64)
    };
    // The first compiles the kernels.
    time(1)?;
    let products = ((SECONDS / time(1)?) as usize).clamp(1, MOST_PRODUCTS);
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        best = best.min(time(products)?);
    }
    Ok(best)
}
