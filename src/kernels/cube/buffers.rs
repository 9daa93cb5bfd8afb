//! Tensors as buffers of kernels.

use burn::tensor::{DType, Int, Shape, Tensor, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::prelude::ArrayArg;

/// A contiguous tensor, not initialised: the launch that follows writes every element.
pub(super) fn empty<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor<R> {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::new(shape), dtype)
}

/// A contiguous tensor in another shape.
pub(super) fn reshaped<R: CubeRuntime, const D: usize>(
    tensor: CubeTensor<R>,
    shape: [usize; D],
) -> CubeTensor<R> {
    let CubeTensor { client, handle, device, dtype, .. } = tensor;
    CubeTensor::new_contiguous(client, device, Shape::new(shape), handle, dtype)
}

/// A contiguous tensor of the same shape, not initialised: the launch that follows writes every element.
pub(super) fn empty_like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), tensor.shape(), tensor.dtype)
}

/// A tensor as an argument of a launch.
pub(super) fn array<R: CubeRuntime>(tensor: CubeTensor<R>) -> ArrayArg<R> {
    tensor.binding().into_array_arg()
}

/// A contiguous buffer of a tensor.
pub(super) fn float_buffer<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    tensor: &Tensor<CubeBackend<R, F, I, BT>, 1>,
) -> CubeTensor<R> {
    into_contiguous(tensor.clone().into_primitive().tensor())
}

/// A contiguous buffer of a tensor.
pub(super) fn int_buffer<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    tensor: &Tensor<CubeBackend<R, F, I, BT>, 1, Int>,
) -> CubeTensor<R> {
    into_contiguous(tensor.clone().into_primitive())
}
