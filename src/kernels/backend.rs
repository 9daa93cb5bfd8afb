//! The trait of a backend.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, FloatDType, Shape, TensorData, TensorMetadata};

use super::attention::{KeyRanges, Scores};
use super::gradients::LinearGradients;
use super::host::Reading;
use super::matmul_path::MatmulPath;
use super::weight::DeviceWeight;
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::zo::direction::{Move, Signs};

/// Operations that a backend needs beside Burn's own. The functions of [`super`] are the way to call them.
pub trait Kernels: Backend {
    /// Paths that differ on this backend and take every shape.
    const PATHS: &[MatmulPath] = &[MatmulPath::Auto];

    /// Paths that some device of this backend takes.
    const EVERY_PATH: &[MatmulPath] = Self::PATHS;

    /// Most tokens for which both signs of a perturbation go through the model in one pass. One pass unpacks every
    /// weight once instead of twice, which matters less the more tokens there are, and doubles the memory of
    /// activations.
    const PAIRED_TOKENS: usize;

    /// Whether a whole weight is unpacked at a time, into the type of the activations.
    const UNPACKS_WHOLE_WEIGHTS: bool;

    /// Whether a device can compute in a type.
    fn supports(compute: ComputeType, device: &Self::Device) -> bool;

    /// The type of the activations' tensors when computing in `compute`.
    fn tensor_type(compute: ComputeType) -> DType;

    /// See [`cast`](super::cast).
    fn cast(x: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        Self::float_cast(x, dtype)
    }

    /// The features of `x`, `[T, in_features]`, in the order that `perm` gives them: `y[t, i] = x[t, perm[i]]`.
    fn permute(x: FloatTensor<Self>, perm: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(x, 1, perm)
    }

    /// The opposite of [`permute`](Self::permute): `y[t, perm[i]] = x[t, i]`.
    fn permute_back(x: FloatTensor<Self>, perm: IntTensor<Self>) -> FloatTensor<Self>;

    /// See [`linear_by`](super::linear_by); the features of `x` are in the weights' order.
    fn packed_linear<const N: usize>(
        path: MatmulPath,
        x: FloatTensor<Self>,
        weights: [&DeviceWeight<Self>; N],
        signs: Signs,
    ) -> Result<[FloatTensor<Self>; N], String>;

    /// Announces the elements of the largest weight, which are unpacked at a time.
    fn expect_unpacked(_elements: usize, _device: &Self::Device) {}

    /// The type in which a dense weight that a file stores as `stored` is kept.
    fn weight_type(stored: DType, compute: ComputeType) -> DType;

    /// See [`dense_linear`](super::dense_linear).
    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`gram`](super::gram).
    fn gram(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(Self::float_transpose(x.clone()), x)
    }

    /// See [`attention`](fn@super::attention).
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> FloatTensor<Self>;

    /// See [`add`](super::add).
    fn add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(x, y)
    }

    /// See [`rms_norm`](super::rms_norm).
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    /// See [`add_rms_norm`](super::add_rms_norm).
    fn add_rms_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2] {
        let sum = Self::add(x, y);
        [sum.clone(), Self::rms_norm(sum, weight, eps)]
    }

    /// See [`rotate`](super::rotate).
    fn rotate(
        x: [FloatTensor<Self>; 2],
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// See [`write_rows`](super::write_rows).
    fn write_rows(
        into: FloatTensor<Self>,
        rows: IntTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// See [`gate_mul`](super::gate_mul).
    fn gate_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    /// See [`linear_backward`](super::linear_backward); the features of `x` and of its gradient are in the weights'
    /// order.
    fn packed_linear_backward<const N: usize>(
        x: Option<FloatTensor<Self>>,
        weights: [&DeviceWeight<Self>; N],
        dy: [FloatTensor<Self>; N],
        wants_input: bool,
    ) -> LinearGradients<FloatTensor<Self>, N>;

    /// See [`sum_of_products`](super::sum_of_products).
    fn sum_of_products(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let [a, b] = [a, b].map(|t| Self::float_cast(t, FloatDType::F32));
        let width = a.shape()[1];
        Self::float_reshape(Self::float_sum_dim(Self::float_mul(a, b), 0), Shape::new([width]))
    }

    /// See [`dense_linear_backward`](super::dense_linear_backward).
    fn dense_linear_backward(dy: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`attention_backward`](fn@super::attention_backward).
    fn packed_attention_backward(
        inputs: [FloatTensor<Self>; 3],
        dy: FloatTensor<Self>,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> [FloatTensor<Self>; 3];

    /// See [`rms_norm_backward`](super::rms_norm_backward).
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
        dy: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// See [`gate_mul_backward`](super::gate_mul_backward).
    fn gate_mul_backward(
        inputs: [FloatTensor<Self>; 2],
        dy: FloatTensor<Self>,
        activation: Activation,
    ) -> [FloatTensor<Self>; 2];

    /// See [`read_later`](super::read_later).
    fn read_later(tensor: FloatTensor<Self>) -> Reading {
        Reading::new(|| burn::tensor::read_sync(Self::float_into_data(tensor)))
    }

    /// See [`upload`](super::upload).
    fn upload(data: TensorData, device: &Self::Device) -> FloatTensor<Self> {
        Self::float_from_data(data, device)
    }

    /// See [`read_beside`](super::read_beside).
    fn read_beside(tensor: FloatTensor<Self>) -> Reading {
        Self::read_later(tensor)
    }

    /// See [`upload_beside`](super::upload_beside).
    fn upload_beside(data: TensorData, device: &Self::Device) -> FloatTensor<Self> {
        Self::upload(data, device)
    }

    /// See [`settle`](super::settle).
    fn settle(_device: &Self::Device) {}

    /// See [`apply_move`](super::apply_move).
    fn move_scales(scales: FloatTensor<Self>, parameter: u32, displacement: Move) -> FloatTensor<Self>;
}
