//! The kernels of CUDA and WGPU, written once in cubecl.

mod attention;
#[cfg(feature = "cuda")]
mod cublas;
#[cfg(not(feature = "cuda"))]
#[path = "no_cublas.rs"]
mod cublas;
mod dense;
#[cfg(test)]
mod dense_tests;
mod elementwise;
#[cfg(test)]
#[cfg(feature = "wgpu")]
mod faults;
mod fused;
mod noise;
mod norm;
#[cfg(test)]
#[cfg(feature = "cuda")]
mod nvrtc;
mod packed;
mod product;
mod rows;
mod step;
#[cfg(test)]
mod test_tensors;
mod unpack;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{DType, Int, Tensor, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::prelude::*;

use self::packed::{Buffers, Levels};
use self::unpack::Source;
use super::{DeviceLevels, DeviceWeight, Engine, Kernels, KeyRanges, Path, Scores};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::packed::LevelsKind;
use crate::zo::direction::{Move, Signs};

/// Units in a cube of the one-dimensional kernels here.
const CUBE: u32 = 64;

impl<R, F, I, BT> Kernels for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    const UNPACKS_WHOLE_WEIGHTS: bool = true;
    const PATHS: &[Path] = &[Path::Dense(Engine::Fastest), Path::Fused];
    const EVERY_PATH: &[Path] = Path::ALL;

    /// Both signs share a pass where their product is fused; a dense weight serves one sign only.
    const PAIRED_TOKENS: usize = product::FUSED_ROWS / 2;

    fn supports(compute: ComputeType, device: &Self::Device) -> bool {
        compute == ComputeType::F32 || Self::supports_dtype(device, compute.into())
    }

    fn tensor_type(compute: ComputeType) -> DType {
        compute.into()
    }

    fn packed_linear<const N: usize>(
        path: Path,
        x: FloatTensor<Self>,
        weights: [&DeviceWeight<Self>; N],
        perturb: Signs,
    ) -> Result<[FloatTensor<Self>; N], String> {
        let source =
            |weight: &DeviceWeight<Self>| Source { packed: buffers(weight), parts: weight.parts(perturb) };
        product::products(path, &into_contiguous(x), weights.map(source))
    }

    fn weight_type(_: DType, compute: ComputeType) -> DType {
        compute.into()
    }

    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let [x, weight] = [x, weight].map(into_contiguous);
        product::dense_product(x, weight)
    }

    /// Burn's product would round f32 to tf32 on cards that have it.
    fn gram(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let columns = into_contiguous(Self::float_transpose(x));
        product::dense_product(columns.clone(), columns)
    }

    fn expect_unpacked(elements: usize, device: &Self::Device) {
        product::expect(elements, device);
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> FloatTensor<Self> {
        let [q, k, v] = [q, k, v].map(into_contiguous);
        let out = empty_like(&q);
        attention::launch(q, k, v, int_primitive(&keys.bounds), scores, out.clone());
        out
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        norm::rms_norm(into_contiguous(x), into_contiguous(weight), eps)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2] {
        norm::add_rms_norm([x, y].map(into_contiguous), into_contiguous(weight), eps)
    }

    fn rotate(
        x: [FloatTensor<Self>; 2],
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        elementwise::rotate(x, into_contiguous(cos), into_contiguous(sin))
    }

    fn gate_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        elementwise::gate_mul(gate, up, activation)
    }

    fn step_scales(scales: FloatTensor<Self>, parameter: u32, noise: Move) -> FloatTensor<Self> {
        let scales = into_contiguous(scales);
        let out = empty_like(&scales);
        step::launch(scales, parameter, noise, out.clone());
        out
    }
}

fn buffers<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    weight: &DeviceWeight<CubeBackend<R, F, I, BT>>,
) -> Buffers<R> {
    Buffers {
        out_features: weight.out_features,
        in_features: weight.in_features,
        bits: weight.bits,
        group_size: weight.group_size,
        codes: int_primitive(&weight.codes),
        scales: float_primitive(&weight.scales),
        levels: levels(&weight.levels),
    }
}

fn levels<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    levels: &DeviceLevels<CubeBackend<R, F, I, BT>>,
) -> Levels<R> {
    let of = |kind| Levels { kind, zero: 0, bytes: None, table: None };
    match levels {
        DeviceLevels::Zero(zero) => Levels { zero: *zero, ..of(LevelsKind::Zero) },
        DeviceLevels::Zeros(zeros) => Levels { bytes: Some(int_primitive(zeros)), ..of(LevelsKind::Zeros) },
        DeviceLevels::Minimum(minimum) => {
            Levels { table: Some(float_primitive(minimum)), ..of(LevelsKind::Minimum) }
        }
        DeviceLevels::Blocks { width, zero, integers, units } => Levels {
            kind: LevelsKind::Blocks { width: *width, minima: units.is_some() },
            zero: *zero,
            bytes: Some(int_primitive(integers)),
            table: units.as_ref().map(float_primitive),
        },
        DeviceLevels::Codebook { width, books, entries } => Levels {
            table: Some(float_primitive(entries)),
            ..of(LevelsKind::Codebook { width: *width, books: *books })
        },
    }
}

/// Contiguous, not initialised: the launch that follows writes every element.
fn empty_like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), tensor.shape(), tensor.dtype)
}

fn float_primitive<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    tensor: &Tensor<CubeBackend<R, F, I, BT>, 1>,
) -> CubeTensor<R> {
    into_contiguous(tensor.clone().into_primitive().tensor())
}

fn int_primitive<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    tensor: &Tensor<CubeBackend<R, F, I, BT>, 1, Int>,
) -> CubeTensor<R> {
    into_contiguous(tensor.clone().into_primitive())
}

/// Cubes for `units` independent units.
fn cubes(units: usize) -> CubeCount {
    rows::spread(units.div_ceil(CUBE as usize))
}
