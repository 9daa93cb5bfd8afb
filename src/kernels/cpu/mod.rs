//! The kernels of the CPU: plain Rust, compiled once for each instruction set below and chosen at run
//! time, with the `gemm` crate for the dense products.

mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(not(target_arch = "x86_64"))]
mod bf16 {
    //! No such instructions here.
    pub(super) use super::linear::packed_linear;

    pub(super) fn is_supported() -> bool {
        false
    }

    pub(super) fn is_possible(_: &super::WeightView<'_>) -> bool {
        false
    }
}
mod columns;
mod elementwise;
mod linear;
mod noise;
mod unpack;

use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Int, Shape, Tensor, TensorMetadata};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{DeviceLevels, DeviceWeight, Kernels, KeyRanges};
use crate::device::ComputeType;
use crate::zo::perturbation::{Noise, Perturb};

/// Compiles an `#[inline(always)]` body for the vector units of x86-64 beside the baseline and calls
/// the widest one this machine has. Other architectures get the baseline (on aarch64 that is NEON).
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) => $body:path;) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "a kernel takes plain tensors and numbers")]
        $vis fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,fma,bmi2")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx512($($arg: $ty),*) { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma,bmi2,popcnt")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx2($($arg: $ty),*) { $body($($arg),*) }
                use std::arch::is_x86_feature_detected as has;
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
                    && has!("avx512vpopcntdq") && has!("avx2") && has!("fma") && has!("bmi2")
                {
                    // SAFETY: the line above saw every feature that `avx512` is compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if has!("avx2") && has!("fma") && has!("bmi2") && has!("popcnt") {
                    // SAFETY: the line above saw every feature that `avx2` is compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
use multiversion;

/// [`DeviceWeight`] as slices.
pub(super) struct WeightView<'a> {
    out_features: usize,
    in_features: usize,
    bits: u32,
    group_size: usize,
    codes: &'a [u32],
    scales: &'a [f32],
    levels: LevelsView<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum LevelsView<'a> {
    Zero(f32),
    Zeros(&'a [u8]),
    Minimum(&'a [f32]),
    Codebook(&'a [f32]),
}

impl Kernels for Flex {
    const PAIRED_TOKENS: usize = 1024;

    fn supports(compute: ComputeType, _: &Self::Device) -> bool {
        match compute {
            ComputeType::F32 => true,
            ComputeType::F16 => false,
            ComputeType::Bf16 => bf16::is_supported(),
        }
    }

    /// Activations stay f32; in bf16 they are rounded inside the packed product alone.
    fn tensor_type(_: ComputeType) -> DType {
        DType::F32
    }

    fn packed_linear<const N: usize>(
        x: FlexTensor,
        weights: [&DeviceWeight<Self>; N],
        perturb: Perturb,
    ) -> [FlexTensor; N] {
        let x = x.to_contiguous();
        weights.map(|weight| packed_linear(&x, weight, perturb))
    }

    fn packed_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        keys: &KeyRanges<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let [q, k, v] = [q, k, v].map(|t| t.to_contiguous());
        let bounds = int_primitive(&keys.bounds);
        let dims = attention::Dims { heads: q.shape()[1], kv_heads: k.shape()[1], head_dim: q.shape()[2] };
        let mut y = FlexTensor::empty(q.shape(), DType::F32);
        attention::attention(
            [q.storage::<f32>(), k.storage::<f32>(), v.storage::<f32>()],
            bounds.storage::<i32>(),
            dims,
            scale,
            y.storage_mut::<f32>(),
        );
        y
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let mut y = FlexTensor::empty(x.shape(), DType::F32);
        elementwise::rms_norm(x.storage(), weight.storage(), eps, y.storage_mut());
        y
    }

    fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        let [x, cos, sin] = [x, cos, sin].map(|t| t.to_contiguous());
        let mut y = FlexTensor::empty(x.shape(), DType::F32);
        let (row, half) = (x.shape()[1] * x.shape()[2], x.shape()[2] / 2);
        elementwise::rotate(x.storage(), cos.storage(), sin.storage(), row, half, y.storage_mut());
        y
    }

    fn silu_mul(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let mut y = FlexTensor::empty(gate.shape(), DType::F32);
        elementwise::silu_mul(gate.storage(), up.storage(), y.storage_mut());
        y
    }

    fn step_scales(scales: FlexTensor, parameter: u32, noise: Noise) -> FlexTensor {
        const CHUNK: usize = 4096;
        let mut scales = scales.to_contiguous();
        scales.storage_mut::<f32>().par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, scales)| {
            let mut k = [0i32; CHUNK];
            let k = &mut k[..scales.len()];
            noise::fill(noise, parameter, (chunk * CHUNK) as u32, k);
            for (s, k) in scales.iter_mut().zip(k) {
                *s = noise.apply(*s, *k);
            }
        });
        scales
    }
}

fn packed_linear(x: &FlexTensor, weight: &DeviceWeight<Flex>, perturb: Perturb) -> FlexTensor {
    let rows = x.shape()[0];
    let (codes, scales) = (int_primitive(&weight.codes), float_primitive(&weight.scales));
    let levels = match &weight.levels {
        DeviceLevels::Zero(_) | DeviceLevels::Codebook(_) | DeviceLevels::Minimum(_) => None,
        DeviceLevels::Zeros(words) => Some(int_primitive(words)),
    };
    let table = match &weight.levels {
        DeviceLevels::Minimum(values) | DeviceLevels::Codebook(values) => Some(float_primitive(values)),
        DeviceLevels::Zero(_) | DeviceLevels::Zeros(_) => None,
    };
    let floats = table.as_ref().map(|t| t.storage::<f32>()).unwrap_or_default();
    let view = WeightView {
        out_features: weight.out_features,
        in_features: weight.in_features,
        bits: weight.bits,
        group_size: weight.group_size,
        codes: bytemuck::cast_slice(codes.storage::<i32>()),
        scales: scales.storage::<f32>(),
        levels: match &weight.levels {
            DeviceLevels::Zero(zero) => LevelsView::Zero(f32::from(*zero)),
            DeviceLevels::Zeros(_) => {
                let words = levels.as_ref().map(|t| t.storage::<i32>()).unwrap_or_default();
                LevelsView::Zeros(bytemuck::cast_slice(words))
            }
            DeviceLevels::Minimum(_) => LevelsView::Minimum(floats),
            DeviceLevels::Codebook(_) => LevelsView::Codebook(floats),
        },
    };
    let mut y = FlexTensor::empty(Shape::new([rows, weight.out_features]), DType::F32);
    let product = match weight.compute {
        // What is not trained is the head: rounding its input would go straight into the loss.
        ComputeType::Bf16 if weight.parameter.is_some() && bf16::is_possible(&view) => bf16::packed_linear,
        _ => linear::packed_linear,
    };
    let parts = weight.parts(perturb);
    let (x, y_values) = (x.storage::<f32>(), y.storage_mut::<f32>());
    let (x_part, y_part) = (x.len() / parts.len(), y_values.len() / parts.len());
    for (i, perturbation) in parts.into_iter().enumerate() {
        let x = &x[i * x_part..][..x_part];
        product(x, &view, perturbation, &mut y_values[i * y_part..][..y_part]);
    }
    y
}

fn float_primitive(tensor: &Tensor<Flex, 1>) -> FlexTensor {
    tensor.clone().into_primitive().tensor().to_contiguous()
}

fn int_primitive(tensor: &Tensor<Flex, 1, Int>) -> FlexTensor {
    tensor.clone().into_primitive().to_contiguous()
}

/// Rows of a weight per task: at most `most`, a multiple of `tile`, and such that the tasks are a multiple
/// of the threads, since nothing else is done before the last of them has ended.
fn rows_per_task(rows: usize, most: usize, tile: usize) -> usize {
    let tasks = rows.div_ceil(most.max(tile)).next_multiple_of(rayon::current_num_threads());
    rows.div_ceil(tasks).next_multiple_of(tile)
}
