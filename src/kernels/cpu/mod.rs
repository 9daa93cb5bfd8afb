//! The kernels of the CPU, compiled once for each instruction set below and chosen at run time.

mod attention;
mod columns;
mod elementwise;
mod linear;
mod noise;

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Shape, Tensor, TensorMetadata};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{DeviceLevels, DeviceWeight, Kernels, KeyRanges, Path, Scores};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::zo::direction::{Move, Signs};
use linear::{Arithmetic, BlocksView, CodebookView, LevelsView, Product, WeightView};

/// Compiles an `#[inline(always)]` body for the vector units of x86-64 beside the baseline and calls
/// the widest one this machine has. Other architectures get the baseline (on aarch64 that is NEON).
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? => $body:path;) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "a kernel takes plain tensors and numbers")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,fma,bmi2")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma,bmi2,popcnt")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
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
pub(crate) use multiversion;

impl Kernels for Flex {
    const PAIRED_TOKENS: usize = 1024;
    const UNPACKS_WHOLE_WEIGHTS: bool = false;

    fn supports(compute: ComputeType, _: &Self::Device) -> bool {
        match compute {
            ComputeType::F32 => true,
            ComputeType::F16 => false,
            ComputeType::Bf16 => Arithmetic::bf16().is_some(),
        }
    }

    /// Activations stay f32; in bf16 they are rounded inside the packed product alone, and only under a
    /// perturbation.
    fn tensor_type(_: ComputeType) -> DType {
        DType::F32
    }

    fn in_order(x: FlexTensor, order: IntTensor<Self>) -> FlexTensor {
        let (x, order) = (x.to_contiguous(), order.to_contiguous());
        let mut y = FlexTensor::empty(x.shape(), DType::F32);
        elementwise::in_order(x.storage(), order.storage(), y.storage_mut());
        y
    }

    fn packed_linear<const N: usize>(
        _: Path,
        x: FlexTensor,
        weights: [&DeviceWeight<Self>; N],
        perturb: Signs,
    ) -> Result<[FlexTensor; N], String> {
        let x = x.to_contiguous();
        let held = weights.map(Held::new);
        let mut y = weights
            .map(|weight| FlexTensor::empty(Shape::new([x.shape()[0], weight.out_features]), DType::F32));
        let (mut in_f32, mut in_bf16) = (vec![], vec![]);
        for ((weight, held), y) in weights.into_iter().zip(&held).zip(&mut y) {
            let view = held.view(weight);
            // What is not trained is the head: rounding its input would go straight into the loss. And an
            // evaluation is to give the figures that others get from the same file.
            let rounds = weight.compute == ComputeType::Bf16
                && weight.parameter.is_some()
                && perturb != Signs::Neither
                && view.is_even();
            let products = if rounds { &mut in_bf16 } else { &mut in_f32 };
            products.push(Product { weight: view, parts: weight.parts(perturb), y: y.storage_mut() });
        }
        let f32 = Arithmetic::f32();
        linear::packed_linear(x.storage(), in_f32, f32);
        linear::packed_linear(x.storage(), in_bf16, Arithmetic::bf16().unwrap_or(f32));
        Ok(y)
    }

    /// As it is stored: half the memory for what most checkpoints hold.
    fn weight_type(stored: DType, _: ComputeType) -> DType {
        stored
    }

    fn dense_linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let in_features = weight.shape()[1];
        let mut y = FlexTensor::empty(Shape::new([x.shape()[0], weight.shape()[0]]), DType::F32);
        let (x, out) = (x.storage::<f32>(), y.storage_mut::<f32>());
        match weight.dtype() {
            DType::F16 => linear::dense_linear(x, weight.storage::<half::f16>(), in_features, out),
            DType::BF16 => linear::dense_linear(x, weight.storage::<half::bf16>(), in_features, out),
            _ => linear::dense_linear(x, weight.storage::<f32>(), in_features, out),
        }
        y
    }

    fn packed_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> FloatTensor<Self> {
        let [q, k, v] = [q, k, v].map(|t| t.to_contiguous());
        let bounds = int_primitive(&keys.bounds);
        let dims = attention::Dims { heads: q.shape()[1], kv_heads: k.shape()[1], head_dim: q.shape()[2] };
        let mut y = FlexTensor::empty(q.shape(), DType::F32);
        attention::attention(
            [q.storage::<f32>(), k.storage::<f32>(), v.storage::<f32>()],
            bounds.storage::<i32>(),
            dims,
            scores,
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

    fn rotate(x: [FlexTensor; 2], cos: FlexTensor, sin: FlexTensor) -> [FlexTensor; 2] {
        let [cos, sin] = [cos, sin].map(|t| t.to_contiguous());
        x.map(|x| {
            let dims = elementwise::Turned { heads: x.shape()[1], dim: x.shape()[2], half: cos.shape()[1] };
            let mut x = owned(x);
            elementwise::rotate(x.storage_mut(), cos.storage(), sin.storage(), dims);
            x
        })
    }

    fn gate_mul(gate: FlexTensor, up: FlexTensor, activation: Activation) -> FlexTensor {
        let mut gate = owned(gate);
        elementwise::gate_mul(gate.storage_mut(), up.to_contiguous().storage(), activation);
        gate
    }

    fn step_scales(scales: FlexTensor, parameter: u32, noise: Move) -> FlexTensor {
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

/// The tensors of a weight, for as long as it is looked at as slices.
struct Held {
    codes: FlexTensor,
    scales: FlexTensor,
    levels: HeldLevels,
}

enum HeldLevels {
    Zero(u8),
    Zeros(FlexTensor),
    Minimum(FlexTensor),
    Blocks { width: usize, zero: u8, integers: FlexTensor, units: Option<FlexTensor> },
    Codebook { width: usize, books: usize, entries: FlexTensor },
}

impl Held {
    fn new(weight: &DeviceWeight<Flex>) -> Self {
        let levels = match &weight.levels {
            DeviceLevels::Zero(zero) => HeldLevels::Zero(*zero),
            DeviceLevels::Zeros(words) => HeldLevels::Zeros(int_primitive(words)),
            DeviceLevels::Minimum(minimum) => HeldLevels::Minimum(float_primitive(minimum)),
            DeviceLevels::Blocks { width, zero, integers, units } => HeldLevels::Blocks {
                width: *width,
                zero: *zero,
                integers: int_primitive(integers),
                units: units.as_ref().map(float_primitive),
            },
            DeviceLevels::Codebook { width, books, entries } => {
                HeldLevels::Codebook { width: *width, books: *books, entries: float_primitive(entries) }
            }
        };
        Self { codes: int_primitive(&weight.codes), scales: float_primitive(&weight.scales), levels }
    }

    fn view(&self, weight: &DeviceWeight<Flex>) -> WeightView<'_> {
        WeightView {
            out_features: weight.out_features,
            in_features: weight.in_features,
            bits: weight.bits,
            group_size: weight.group_size,
            codes: bytemuck::cast_slice(self.codes.storage::<i32>()),
            scales: self.scales.storage(),
            levels: match &self.levels {
                HeldLevels::Zero(zero) => LevelsView::Zero(f32::from(*zero)),
                HeldLevels::Zeros(words) => LevelsView::Zeros(bytemuck::cast_slice(words.storage::<i32>())),
                HeldLevels::Minimum(minimum) => LevelsView::Minimum(minimum.storage()),
                HeldLevels::Blocks { width, zero, integers, units } => {
                    let integers: &[u8] = bytemuck::cast_slice(integers.storage::<i32>());
                    let blocks = weight.out_features * weight.in_features.div_ceil(*width);
                    LevelsView::Blocks(BlocksView {
                        width: *width,
                        zero: f32::from(*zero),
                        factors: bytemuck::cast_slice(&integers[..blocks]),
                        minima: units.as_ref().map(|units| (&integers[blocks..2 * blocks], units.storage())),
                    })
                }
                HeldLevels::Codebook { width, books, entries } => LevelsView::Codebook(CodebookView {
                    width: *width,
                    books: *books,
                    entries: entries.storage(),
                }),
            },
        }
    }
}

/// Contiguous, and written in place where nobody else holds it.
fn owned(tensor: FlexTensor) -> FlexTensor {
    let contiguous = tensor.to_contiguous();
    drop(tensor);
    contiguous
}

fn float_primitive(tensor: &Tensor<Flex, 1>) -> FlexTensor {
    tensor.clone().into_primitive().tensor().to_contiguous()
}

fn int_primitive(tensor: &Tensor<Flex, 1, Int>) -> FlexTensor {
    tensor.clone().into_primitive().to_contiguous()
}
