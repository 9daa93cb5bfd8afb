//! The operations as functions of tensors.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Int, Tensor, TensorPrimitive};

use super::attention::{KeyRanges, Scores};
use super::backend::Kernels;
use super::matmul_path::MatmulPath;
use super::transfer::read;
use super::weight::{DeviceWeight, upload_floats};
use crate::arch::Activation;
use crate::error::Result;
use crate::zo::direction::{Move, Signs};

/// `y = x · W(s ± e·k)ᵀ` for weights that share their input, the perturbation rebuilt from its seed while
/// the codes are unpacked.
///
/// # Shapes
/// `x`: `[T, in_features]` float, row-major, in equal parts as [`Signs`] says; results:
/// `[T, out_features]`.
pub fn linear<B: Kernels, const N: usize>(
    x: Tensor<B, 2>,
    weights: [&DeviceWeight<B>; N],
    signs: Signs,
) -> [Tensor<B, 2>; N] {
    linear_by(MatmulPath::Auto, x, weights, signs)
        .unwrap_or_else(|what| unreachable!("every device has a path for every shape: {what}"))
}

/// [`linear`] by a given path, to compare paths.
///
/// # Errors
/// The reason why this device cannot take the path.
pub fn linear_by<B: Kernels, const N: usize>(
    path: MatmulPath,
    x: Tensor<B, 2>,
    weights: [&DeviceWeight<B>; N],
    signs: Signs,
) -> Result<[Tensor<B, 2>; N], String> {
    debug_assert!(x.dims()[0].is_multiple_of(signs.parts().len()));
    let x = x.into_primitive().tensor();
    let y = if weights.iter().all(|weight| weight.packed.perm.is_none()) {
        B::packed_linear(path, x, weights, signs)?
    } else {
        let mut refusal = None;
        let y = weights.map(|weight| {
            let made = B::packed_linear(path, permuted(x.clone(), weight), [weight], signs);
            made.map(|[y]| y).map_err(|what| refusal = Some(what)).ok()
        });
        if let Some(what) = refusal {
            return Err(what);
        }
        y.map(|y| y.unwrap_or_else(|| x.clone()))
    };
    Ok(y.map(|y| Tensor::from_primitive(TensorPrimitive::Float(y))))
}

/// The features of `x` in the order of a weight.
fn permuted<B: Kernels>(x: FloatTensor<B>, weight: &DeviceWeight<B>) -> FloatTensor<B> {
    match &weight.packed.perm {
        Some(perm) => B::permute(x, perm.clone().into_primitive()),
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

/// `x` in another float type. On a CPU all threads convert, where [`Tensor::cast`] has one.
pub fn cast<B: Kernels, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::cast(x.into_primitive().tensor(), dtype.into())))
}

/// `x + y`, of one shape.
pub fn add<B: Kernels>(x: Tensor<B, 2>, y: Tensor<B, 2>) -> Tensor<B, 2> {
    let [x, y] = [x, y].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::add(x, y)))
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

/// `x + y`, rounded to the type of both, and [`rms_norm`] of the rounded sum.
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
/// The elements behind them stay as they are.
///
/// # Shapes
/// `x`: `[T, heads, head_dim]` twice, each with heads of its own; `cos`, `sin`: f32 `[T, turned / 2]`, with
/// `turned` ≤ `head_dim`; results like `x`.
pub fn rotate<B: Kernels>(x: [Tensor<B, 3>; 2], cos: Tensor<B, 2>, sin: Tensor<B, 2>) -> [Tensor<B, 3>; 2] {
    let x = x.map(|t| t.into_primitive().tensor());
    let [cos, sin] = [cos, sin].map(|t| t.into_primitive().tensor());
    B::rotate(x, cos, sin).map(|t| Tensor::from_primitive(TensorPrimitive::Float(t)))
}

/// Writes row `i` of `values` to row `rows[i]` of `into`, in place where nothing else holds that. The rows are distinct and
/// lie within `into`.
///
/// # Shapes
/// `into`: `[S, heads, head_dim]`; `rows`: `[T]`; `values`: `[T, heads, head_dim]`; result like `into`.
pub fn write_rows<B: Kernels>(
    into: Tensor<B, 3>,
    rows: Tensor<B, 1, Int>,
    values: Tensor<B, 3>,
) -> Tensor<B, 3> {
    let [into, values] = [into, values].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::write_rows(into, rows.into_primitive(), values)))
}

/// `activation(gate) · up`, elementwise, written in place of `gate` where nothing else holds that.
///
/// # Shapes
/// `gate`, `up` and the result: `[T, intermediate]`.
pub fn gate_mul<B: Kernels>(gate: Tensor<B, 2>, up: Tensor<B, 2>, activation: Activation) -> Tensor<B, 2> {
    let [gate, up] = [gate, up].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::gate_mul(gate, up, activation)))
}

/// Moves the scales of one weight; the bits are the same on every backend.
pub fn apply_move<B: Kernels>(weight: &mut DeviceWeight<B>, parameter: u32, displacement: Move) {
    let scales = weight.packed.scales.clone().into_primitive().tensor();
    weight.packed.scales =
        Tensor::from_primitive(TensorPrimitive::Float(B::move_scales(scales, parameter, displacement)));
}

/// Applies many moves to the scales of one weight and brings them back to the host.
///
/// # Errors
/// A fault that the device reports.
pub fn replay<B: Kernels>(
    scales: Vec<f32>,
    parameter: u32,
    moves: &[Move],
    device: &B::Device,
) -> Result<Vec<f32>> {
    let mut scales = upload_floats::<B>(scales, device).into_primitive().tensor();
    for displacement in moves {
        scales = B::move_scales(scales, parameter, *displacement);
    }
    read(Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(scales)))
}
