//! The arithmetic that Burn does not have: packed weights under perturbation, attention over
//! sequences of different lengths laid end to end, and the step on the scales.
//!
//! The only room that may use SIMD intrinsics (`cpu`) or cubecl (`cube`: CUDA and WGPU). Both are
//! checked against the plain loops in `reference`. A launch takes tensors and numbers, never a model;
//! the device functions stand above it in the same file.

pub mod bench;
mod cpu;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
pub mod packed;
#[cfg(test)]
mod reference;
mod weight;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorPrimitive};

pub(crate) use cpu::multiversion;
pub use weight::{DeviceLevels, DeviceWeight};

use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::zo::perturbation::{Noise, Perturb};

/// How [`linear`] is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// What the backend takes to be fastest at this size.
    Auto,
    /// The weight is unpacked into a scratch, then multiplied like any other.
    Dense,
    /// The weight is unpacked where the product reads it; [`Path::Dense`] where the device cannot do that.
    Fused,
}

/// What a backend must bring beside Burn's own operations.
pub trait Kernels: Backend {
    /// The paths that differ here.
    const PATHS: &[Path] = &[Path::Auto];

    /// Up to how many tokens both signs of a perturbation go through the model in one pass. It saves
    /// unpacking every weight twice, which matters least where there are many tokens, and costs the
    /// memory of twice the activations.
    const PAIRED_TOKENS: usize;

    /// Whether a whole weight is unpacked at a time, into the type of the activations.
    const UNPACKS_WHOLE_WEIGHTS: bool;

    /// Whether this device can compute in a type.
    fn supports(compute: ComputeType, device: &Self::Device) -> bool;

    /// The type of the activations' tensors when computing in `compute`.
    fn tensor_type(compute: ComputeType) -> DType;

    /// The features of `x`, `[T, in_features]`, as `order` names them.
    fn in_order(x: FloatTensor<Self>, order: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(x, 1, order)
    }

    /// See [`linear`]; the features of `x` are in the order of the weights'.
    fn packed_linear<const N: usize>(
        x: FloatTensor<Self>,
        weights: [&DeviceWeight<Self>; N],
        perturb: Perturb,
    ) -> [FloatTensor<Self>; N];

    /// The type in which a dense weight, stored as `stored`, is kept.
    fn weight_type(stored: DType, compute: ComputeType) -> DType;

    /// See [`dense_linear`].
    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The same by a given path.
    fn packed_linear_by<const N: usize>(
        _path: Path,
        x: FloatTensor<Self>,
        weights: [&DeviceWeight<Self>; N],
        perturb: Perturb,
    ) -> [FloatTensor<Self>; N] {
        Self::packed_linear(x, weights, perturb)
    }

    /// See [`attention`].
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> FloatTensor<Self>;

    /// See [`rms_norm`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    /// See [`rotate`].
    fn rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`gate_mul`].
    fn gate_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Gate) -> FloatTensor<Self>;

    /// See [`step`].
    fn step_scales(scales: FloatTensor<Self>, parameter: u32, noise: Noise) -> FloatTensor<Self>;
}

/// What the gate of an MLP goes through. Either is x · σ(v).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// v = x
    Silu,
    /// GELU as tanh approximates it: v = √(8/π) · (x + 0.044715·x³)
    GeluTanh,
}

/// How products of queries and keys become attention scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    pub scale: f32,
    /// Scores x become `cap · tanh(x / cap)`.
    pub cap: Option<f32>,
}

/// √(8/π), see [`Gate::GeluTanh`].
const GELU_LINEAR: f32 = 1.595_769;
/// Its product with 0.044715.
const GELU_CUBIC: f32 = 0.071_354_82;

/// Which keys each query row may see: two ranges of rows of the key tensor. Causality, sliding windows,
/// the borders between packed sequences, a prefix that several sequences continue and a cache of earlier
/// keys are all said by this.
#[derive(Debug, Clone)]
pub struct KeyRanges<B: Backend> {
    /// i32 `[4 × T]`: for each query row `prefix_begin, prefix_end, begin, end`. The prefix may be empty,
    /// the second range is not, and every row of the prefix comes before it.
    pub bounds: Tensor<B, 1, Int>,
}

/// `y = x · W(s ± e·k)ᵀ` for weights that share their input, the perturbation rebuilt from its seed while
/// the codes are unpacked.
///
/// # Shapes
/// `x`: `[T, in_features]` float, row-major, in equal parts as [`Perturb`] says; results:
/// `[T, out_features]`.
pub fn linear<B: Kernels, const N: usize>(
    x: Tensor<B, 2>,
    weights: [&DeviceWeight<B>; N],
    perturb: Perturb,
) -> [Tensor<B, 2>; N] {
    linear_by(Path::Auto, x, weights, perturb)
}

/// [`linear`] by a given path, to compare them.
pub fn linear_by<B: Kernels, const N: usize>(
    path: Path,
    x: Tensor<B, 2>,
    weights: [&DeviceWeight<B>; N],
    perturb: Perturb,
) -> [Tensor<B, 2>; N] {
    debug_assert!(x.dims()[0].is_multiple_of(perturb.parts().len()));
    let x = x.into_primitive().tensor();
    let y = if weights.iter().all(|weight| weight.order.is_none()) {
        B::packed_linear_by(path, x, weights, perturb)
    } else {
        weights.map(|weight| {
            let x = match &weight.order {
                Some(order) => B::in_order(x.clone(), order.clone().into_primitive()),
                None => x.clone(),
            };
            let [y] = B::packed_linear_by(path, x, [weight], perturb);
            y
        })
    };
    y.map(|y| Tensor::from_primitive(TensorPrimitive::Float(y)))
}

/// `y = x · Wᵀ` for a dense weight of the type that [`Kernels::weight_type`] gave.
///
/// # Shapes
/// `x`: `[T, in_features]`; `weight`: `[out_features, in_features]`; result: `[T, out_features]`.
pub fn dense_linear<B: Kernels>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    let [x, weight] = [x, weight].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::dense_linear(x, weight)))
}

/// Softmax attention of each query row over its own range of keys; query head `h` reads key head
/// `h / (heads / kv_heads)`.
///
/// # Shapes
/// `q`: `[T, heads, head_dim]`; `k`, `v`: `[S, kv_heads, head_dim]`; result like `q`.
pub fn attention<B: Kernels>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    keys: &KeyRanges<B>,
    scores: Scores,
) -> Tensor<B, 3> {
    let [q, k, v] = [q, k, v].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::packed_attention(q, k, v, keys, scores)))
}

/// `x / √(mean(x²) + eps) · weight` per row, in f32 inside whatever the type of `x`: the squares of f16
/// activations overflow (Zhang and Sennrich 2019).
///
/// # Shapes
/// `x`: `[T, hidden]`; `weight`: f32 `[hidden]`; result like `x`.
pub fn rms_norm<B: Kernels>(x: Tensor<B, 2>, weight: Tensor<B, 1>, eps: f32) -> Tensor<B, 2> {
    let (x, weight) = (x.into_primitive().tensor(), weight.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::rms_norm(x, weight, eps)))
}

/// Rotary position embedding in the half-split order: `(a, b) → (a·cos − b·sin, b·cos + a·sin)` for the
/// two halves of every head.
///
/// # Shapes
/// `x`: `[T, heads, head_dim]`; `cos`, `sin`: f32 `[T, head_dim / 2]`; result like `x`.
pub fn rotate<B: Kernels>(x: Tensor<B, 3>, cos: Tensor<B, 2>, sin: Tensor<B, 2>) -> Tensor<B, 3> {
    let x = x.into_primitive().tensor();
    let [cos, sin] = [cos, sin].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::rotate(x, cos, sin)))
}

/// `activation(gate) · up`, elementwise.
///
/// # Shapes
/// `gate`, `up` and the result: `[T, intermediate]`.
pub fn gate_mul<B: Kernels>(gate: Tensor<B, 2>, up: Tensor<B, 2>, activation: Gate) -> Tensor<B, 2> {
    let [gate, up] = [gate, up].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::gate_mul(gate, up, activation)))
}

/// Moves the scales of one weight by a step whose direction is the noise and whose length is
/// `noise.coefficient`; the bits are the same on every backend.
pub fn step<B: Kernels>(weight: &mut DeviceWeight<B>, parameter: u32, noise: Noise) {
    let scales = weight.scales.clone().into_primitive().tensor();
    weight.scales = Tensor::from_primitive(TensorPrimitive::Float(B::step_scales(scales, parameter, noise)));
}

/// Moves the scales of one weight by many steps and brings them back to the host.
///
/// # Errors
/// What the device reports.
pub fn replay<B: Kernels>(
    scales: Vec<f32>,
    parameter: u32,
    steps: &[Noise],
    device: &B::Device,
) -> Result<Vec<f32>> {
    let mut scales = weight::upload_floats::<B>(scales, device).into_primitive().tensor();
    for noise in steps {
        scales = B::step_scales(scales, parameter, *noise);
    }
    read(Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(scales)))
}

/// A tensor's values as f32; the device is waited for.
///
/// # Errors
/// What the device reports: most often that its memory is full.
pub fn read<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>> {
    let failed = |what: String| {
        Error::device(format!("the device failed: {what}"), "try a smaller batch, or --device cpu")
    };
    let data = tensor.try_into_data().map_err(|error| failed(format!("{error:?}")))?;
    data.convert::<f32>().into_vec().map_err(|error| failed(format!("{error:?}")))
}
