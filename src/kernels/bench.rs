//! Times the packed product alone, with a perturbation, on made-up codes.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor};

use super::{DeviceWeight, Kernels, linear, read};
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::packed::words_per_row;
use crate::kernels::packed::{Levels, PackedWeight};
use crate::zo::perturbation::{Noise, Perturb, Perturbation, ScaleMode, coefficient};

const RUNS: usize = 5;

/// The shortest of some runs of `x[2 · tokens, input] · W[out, input]ᵀ`, the first half of the rows at one
/// sign of a perturbation, the second at the other, in seconds; 4 bits, groups of 64.
pub fn time_linear<B: Kernels>(
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
    };
    let weight = DeviceWeight::<B>::upload(weight, Some(0), compute, device);
    let (kind, mode) = (Perturbation::Gaussian, ScaleMode::Relative);
    let noise = Noise { kind, mode, seed: 1, probe: 0, coefficient: coefficient(kind, 1e-2) };
    let x = Tensor::<B, 2>::random([2 * tokens, input], Distribution::Normal(0.0, 1.0), (device, DType::F32));
    let x = x.cast(B::tensor_type(compute));
    let mut best = f64::INFINITY;
    for _ in 0..=RUNS {
        let clock = Instant::now();
        let [y] = linear(x.clone(), [&weight], Perturb::BothWays(noise));
        read(y.narrow(0, 0, 1))?;
        best = best.min(clock.elapsed().as_secs_f64());
    }
    Ok(best)
}
