//! The backward passes of the operations as functions of tensors. Each takes the operation's inputs and the gradient of
//! its result, `dy`, and returns the gradients of the inputs. The formulas are drawn where they are computed.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive};

use super::attention::{KeyRanges, Scores};
use super::backend::Kernels;
use super::gradients::LinearGradients;
use super::weight::DeviceWeight;
use crate::arch::Activation;

/// The backward pass of [`linear`](super::linear) with the scales as they are. The gradients of the scales need the
/// input `x` and are computed if it is given; that of the input, if `wants_input` is true.
///
/// # Shapes
/// `x`: `[T, in_features]`; `dy`: `[T, out_features]` each; results: see [`LinearGradients`].
pub fn linear_backward<B: Kernels, const N: usize>(
    x: Option<Tensor<B, 2>>,
    weights: [&DeviceWeight<B>; N],
    dy: [Tensor<B, 2>; N],
    wants_input: bool,
) -> (Option<Tensor<B, 2>>, Option<[Tensor<B, 1>; N]>) {
    if x.is_none() && !wants_input {
        return (None, None);
    }
    let (x, dy) = (x.map(|x| x.into_primitive().tensor()), dy.map(|dy| dy.into_primitive().tensor()));
    let LinearGradients { input, scales } = if weights.iter().all(|weight| weight.packed.perm.is_none()) {
        B::packed_linear_backward(x, weights, dy, wants_input)
    } else {
        let mut dy = dy.into_iter();
        let parts =
            weights.map(|weight| dy.next().map(|dy| one_backward(x.clone(), weight, dy, wants_input)));
        let mut sum = LinearGradients { input: None, scales: None };
        let mut scales = Vec::new();
        for part in parts.into_iter().flatten() {
            sum.input = match (sum.input, part.input) {
                (Some(sum), Some(part)) => Some(B::float_add(sum, part)),
                (sum, part) => sum.or(part),
            };
            scales.extend(part.scales.into_iter().flatten());
        }
        LinearGradients { scales: scales.try_into().ok(), ..sum }
    };
    let input = input.map(|input| Tensor::from_primitive(TensorPrimitive::Float(input)));
    (input, scales.map(|scales| scales.map(|scale| Tensor::from_primitive(TensorPrimitive::Float(scale)))))
}

/// The backward pass with one weight, whose features may be in another order than the model's.
fn one_backward<B: Kernels>(
    x: Option<FloatTensor<B>>,
    weight: &DeviceWeight<B>,
    dy: FloatTensor<B>,
    wants_input: bool,
) -> LinearGradients<FloatTensor<B>, 1> {
    let Some(perm) = &weight.packed.perm else {
        return B::packed_linear_backward(x, [weight], [dy], wants_input);
    };
    let perm = perm.clone().into_primitive();
    let x = x.map(|x| B::permute(x, perm.clone()));
    let gradients = B::packed_linear_backward(x, [weight], [dy], wants_input);
    let input = gradients.input.map(|dx| B::permute_back(dx, perm));
    LinearGradients { input, ..gradients }
}

/// `Σ_t a[t, i] · b[t, i]` in f32: the gradient of a factor of each column.
///
/// # Shapes
/// `a`, `b`: `[T, width]`; result: f32 `[width]`.
pub fn sum_of_products<B: Kernels>(a: Tensor<B, 2>, b: Tensor<B, 2>) -> Tensor<B, 1> {
    let [a, b] = [a, b].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::sum_of_products(a, b)))
}

/// The backward pass of [`dense_linear`](super::dense_linear): `dx = dy · W`.
///
/// # Shapes
/// `dy`: `[T, out_features]`; `weight`: `[out_features, in_features]`; result: `[T, in_features]`.
pub fn dense_linear_backward<B: Kernels>(dy: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    let [dy, weight] = [dy, weight].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::dense_linear_backward(dy, weight)))
}

/// The backward pass of [`attention`](fn@super::attention): gradients of queries, keys and values.
///
/// # Shapes
/// `inputs`: queries `[T, heads, head_dim]`, keys and values `[S, kv_heads, head_dim]`; `dy` like the queries; results like
/// the inputs.
pub fn attention_backward<B: Kernels>(
    inputs: [Tensor<B, 3>; 3],
    dy: Tensor<B, 3>,
    keys: &KeyRanges<B>,
    scores: Scores,
) -> [Tensor<B, 3>; 3] {
    let inputs = inputs.map(|t| t.into_primitive().tensor());
    let gradients = B::packed_attention_backward(inputs, dy.into_primitive().tensor(), keys, scores);
    gradients.map(|t| Tensor::from_primitive(TensorPrimitive::Float(t)))
}

/// The backward pass of [`rms_norm`](super::rms_norm): the gradient of `x`.
///
/// # Shapes
/// `x`, `dy` and the result: `[T, hidden]`; `weight`: f32 `[hidden]`.
pub fn rms_norm_backward<B: Kernels>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 1>,
    eps: f32,
    dy: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let [x, dy] = [x, dy].map(|t| t.into_primitive().tensor());
    let dx = B::rms_norm_backward(x, weight.into_primitive().tensor(), eps, dy);
    Tensor::from_primitive(TensorPrimitive::Float(dx))
}

/// The backward pass of [`rotate`](super::rotate): the rotation by the opposite angles.
///
/// # Shapes
/// As there.
pub fn rotate_backward<B: Kernels>(
    dy: [Tensor<B, 3>; 2],
    cos: Tensor<B, 2>,
    sin: Tensor<B, 2>,
) -> [Tensor<B, 3>; 2] {
    super::rotate(dy, cos, -sin)
}

/// The backward pass of [`gate_mul`](super::gate_mul): gradients of gate and up.
///
/// # Shapes
/// All: `[T, intermediate]`.
pub fn gate_mul_backward<B: Kernels>(
    gate: Tensor<B, 2>,
    up: Tensor<B, 2>,
    dy: Tensor<B, 2>,
    activation: Activation,
) -> [Tensor<B, 2>; 2] {
    let [gate, up, dy] = [gate, up, dy].map(|t| t.into_primitive().tensor());
    let gradients = B::gate_mul_backward([gate, up], dy, activation);
    gradients.map(|t| Tensor::from_primitive(TensorPrimitive::Float(t)))
}
