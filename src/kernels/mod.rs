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
#[cfg(test)]
mod reference;
mod weight;

use burn::tensor::backend::{Backend, ExecutionError};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorPrimitive};

pub(crate) use cpu::multiversion;
pub use weight::{DeviceLevels, DeviceWeight};

use crate::arch::Activation;
use crate::device::{ComputeType, faults};
use crate::error::{Error, Result};
use crate::zo::direction::{Move, Signs};

/// How [`linear`] is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// What the backend takes to be fastest at this size.
    Auto,
    /// The weight is unpacked into a scratch, then multiplied like any other.
    Dense(Engine),
    /// The weight is unpacked where the product reads it.
    Fused,
}

/// The library or routine that multiplies dense matrices on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The first of what is known to be fast, by the type of the tensors.
    Fastest,
    Cublas,
    /// cubek's routines, by their tiles (wmma or mma instructions, or plain units) and how they are fed.
    Cmma,
    Mma,
    TmaMma,
    Units,
    Naive,
}

impl Path {
    pub const ALL: &[Self] = &[
        Self::Dense(Engine::Cublas),
        Self::Dense(Engine::Cmma),
        Self::Dense(Engine::Mma),
        Self::Dense(Engine::TmaMma),
        Self::Dense(Engine::Units),
        Self::Fused,
    ];

    /// As the bench prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fused => "fused",
            Self::Dense(engine) => match engine {
                Engine::Fastest => "dense",
                Engine::Cublas => "cublas",
                Engine::Cmma => "cubek-cmma",
                Engine::Mma => "cubek-mma",
                Engine::TmaMma => "cubek-tma-mma",
                Engine::Units => "cubek-units",
                Engine::Naive => "cubek-naive",
            },
        }
    }
}

impl Engine {
    /// Whether it rounds f32 to tf32 where the device has that.
    pub fn rounds_f32(self) -> bool {
        !matches!(self, Self::Fastest | Self::Cublas | Self::Units | Self::Naive)
    }
}

/// What a backend must bring beside Burn's own operations.
pub trait Kernels: Backend {
    /// The paths that differ here and take every shape.
    const PATHS: &[Path] = &[Path::Auto];

    /// All that some device takes.
    const EVERY_PATH: &[Path] = Self::PATHS;

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

    /// See [`linear_by`]; the features of `x` are in the order of the weights'.
    fn packed_linear<const N: usize>(
        path: Path,
        x: FloatTensor<Self>,
        weights: [&DeviceWeight<Self>; N],
        perturb: Signs,
    ) -> Result<[FloatTensor<Self>; N], String>;

    /// Says how many weights a product unpacks at a time at most, those of one input together.
    fn expect_unpacked(_elements: usize, _device: &Self::Device) {}

    /// The type in which a dense weight, stored as `stored`, is kept.
    fn weight_type(stored: DType, compute: ComputeType) -> DType;

    /// See [`dense_linear`].
    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`gram`].
    fn gram(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(Self::float_transpose(x.clone()), x)
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

    /// See [`add_rms_norm`].
    fn add_rms_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2] {
        let sum = Self::float_add(x, y);
        [sum.clone(), Self::rms_norm(sum, weight, eps)]
    }

    /// See [`rotate`].
    fn rotate(
        x: [FloatTensor<Self>; 2],
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// See [`gate_mul`].
    fn gate_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    /// See [`step`].
    fn step_scales(scales: FloatTensor<Self>, parameter: u32, noise: Move) -> FloatTensor<Self>;
}

/// How products of queries and keys become attention scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    pub scale: f32,
    /// Scores x become `cap · tanh(x / cap)`.
    pub cap: Option<f32>,
}

/// √(8/π), see [`Activation::GeluTanh`].
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
/// `x`: `[T, in_features]` float, row-major, in equal parts as [`Signs`] says; results:
/// `[T, out_features]`.
pub fn linear<B: Kernels, const N: usize>(
    x: Tensor<B, 2>,
    weights: [&DeviceWeight<B>; N],
    perturb: Signs,
) -> [Tensor<B, 2>; N] {
    linear_by(Path::Auto, x, weights, perturb)
        .unwrap_or_else(|what| unreachable!("every device has a way for every shape: {what}"))
}

/// [`linear`] by a given path, to compare them.
///
/// # Errors
/// Why this device cannot take it.
pub fn linear_by<B: Kernels, const N: usize>(
    path: Path,
    x: Tensor<B, 2>,
    weights: [&DeviceWeight<B>; N],
    perturb: Signs,
) -> Result<[Tensor<B, 2>; N], String> {
    debug_assert!(x.dims()[0].is_multiple_of(perturb.parts().len()));
    let x = x.into_primitive().tensor();
    let y = if weights.iter().all(|weight| weight.order.is_none()) {
        B::packed_linear(path, x, weights, perturb)?
    } else {
        let mut refusal = None;
        let y = weights.map(|weight| {
            let made = B::packed_linear(path, ordered(x.clone(), weight), [weight], perturb);
            made.map(|[y]| y).map_err(|what| refusal = Some(what)).ok()
        });
        if let Some(what) = refusal {
            return Err(what);
        }
        y.map(|y| y.unwrap_or_else(|| x.clone()))
    };
    Ok(y.map(|y| Tensor::from_primitive(TensorPrimitive::Float(y))))
}

/// The features of `x` in the order of a weight's.
fn ordered<B: Kernels>(x: FloatTensor<B>, weight: &DeviceWeight<B>) -> FloatTensor<B> {
    match &weight.order {
        Some(order) => B::in_order(x, order.clone().into_primitive()),
        None => x,
    }
}

/// `y = x · Wᵀ` for a dense weight of the type that [`Kernels::weight_type`] gave.
///
/// # Shapes
/// `x`: `[T, in_features]`; `weight`: `[out_features, in_features]`; result: `[T, out_features]`.
pub fn dense_linear<B: Kernels>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    let [x, weight] = [x, weight].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::dense_linear(x, weight)))
}

/// `xᵀ · x` in f32.
///
/// # Shapes
/// `x`: f32 `[T, width]`; result: `[width, width]`.
pub fn gram<B: Kernels>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    Tensor::from_primitive(TensorPrimitive::Float(B::gram(x.into_primitive().tensor())))
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

/// `x + y`, rounded to the type of both, and [`rms_norm`] of what it was rounded to.
///
/// # Shapes
/// `x`, `y` and the results: `[T, hidden]`; `weight`: f32 `[hidden]`.
pub fn add_rms_norm<B: Kernels>(
    x: Tensor<B, 2>,
    y: Tensor<B, 2>,
    weight: Tensor<B, 1>,
    eps: f32,
) -> [Tensor<B, 2>; 2] {
    let [x, y] = [x, y].map(|t| t.into_primitive().tensor());
    let results = B::add_rms_norm(x, y, weight.into_primitive().tensor(), eps);
    results.map(|t| Tensor::from_primitive(TensorPrimitive::Float(t)))
}

/// Rotary position embedding of queries and keys in the half-split order:
/// `(a, b) → (a·cos − b·sin, b·cos + a·sin)` for the two halves of the first `turned` elements of every head.
/// What comes behind them stays as it is.
///
/// # Shapes
/// `x`: `[T, heads, head_dim]` twice, each with heads of its own; `cos`, `sin`: f32 `[T, turned / 2]`, with
/// `turned` ≤ `head_dim`; results like `x`.
pub fn rotate<B: Kernels>(x: [Tensor<B, 3>; 2], cos: Tensor<B, 2>, sin: Tensor<B, 2>) -> [Tensor<B, 3>; 2] {
    let x = x.map(|t| t.into_primitive().tensor());
    let [cos, sin] = [cos, sin].map(|t| t.into_primitive().tensor());
    B::rotate(x, cos, sin).map(|t| Tensor::from_primitive(TensorPrimitive::Float(t)))
}

/// `activation(gate) · up`, elementwise; in the memory of `gate` where nothing else holds it.
///
/// # Shapes
/// `gate`, `up` and the result: `[T, intermediate]`.
pub fn gate_mul<B: Kernels>(gate: Tensor<B, 2>, up: Tensor<B, 2>, activation: Activation) -> Tensor<B, 2> {
    let [gate, up] = [gate, up].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::gate_mul(gate, up, activation)))
}

/// Moves the scales of one weight by a step whose direction is the noise and whose length is
/// `noise.coefficient`; the bits are the same on every backend.
pub fn step<B: Kernels>(weight: &mut DeviceWeight<B>, parameter: u32, noise: Move) {
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
    steps: &[Move],
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
/// What has failed on a device in this process, up to now: most often that its memory is full. Values that
/// were computed after that are not given out.
pub fn read<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>> {
    let device = tensor.device();
    let data = faults::checked(|| {
        let data = tensor.try_into_data()?;
        // WGPU tells here, and only here, of kernels that were not launched.
        B::sync(&device)?;
        Ok::<_, ExecutionError>(data)
    })?;
    let values = data.convert::<f32>().into_vec();
    values.map_err(|error| Error::device(format!("the device's answer is no list of numbers: {error:?}"), ""))
}
