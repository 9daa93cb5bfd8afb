//! Tensors on their way to the host and back.

use burn::tensor::backend::{Backend, ExecutionError};
use burn::tensor::{Tensor, TensorData, TensorPrimitive};

use super::backend::Kernels;
use super::host::Reading;
use crate::device::faults;
use crate::error::{Error, Result};

/// Reads a tensor's values as f32. Waits for the device.
///
/// # Errors
/// A fault of a device of this process up to now, most often that its memory is full. No values that were computed
/// after a fault are returned.
pub fn read<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>> {
    let device = tensor.device();
    let data = faults::checked(|| {
        let data = tensor.try_into_data()?;
        // Only here does WGPU report kernels that were not launched.
        B::sync(&device)?;
        Ok::<_, ExecutionError>(data)
    })?;
    let values = data.convert::<f32>().into_vec();
    values
        .map_err(|error| Error::internal(format!("the device's answer is not a list of numbers: {error:?}")))
}

/// Begins to read a tensor, in its own type. What is queued from now on does not delay it.
pub fn read_later<B: Kernels, const D: usize>(tensor: Tensor<B, D>) -> Reading {
    B::read_later(tensor.into_primitive().tensor())
}

/// As [`read_later`], but where the device can copy and compute at once, the copy may wait for a large product that is
/// queued later, and run beside it.
pub fn read_beside<B: Kernels, const D: usize>(tensor: Tensor<B, D>) -> Reading {
    B::read_beside(tensor.into_primitive().tensor())
}

/// As [`upload`], but the copy may wait in the same way: the tensor may be used after [`settle`].
pub fn upload_beside<B: Kernels, const D: usize>(data: TensorData, device: &B::Device) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::upload_beside(data, device)))
}

/// Queues every copy that still waits for a product.
pub fn settle<B: Kernels>(device: &B::Device) {
    B::settle(device);
}

/// Waits for everything that is queued.
///
/// # Errors
/// A fault of a device of this process up to now.
pub fn finish<B: Backend>(device: &B::Device) -> Result<()> {
    faults::checked(|| B::sync(device))
}

/// Makes a tensor of values, in their own type. What is queued before and after does not wait for it.
pub fn upload<B: Kernels, const D: usize>(data: TensorData, device: &B::Device) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::upload(data, device)))
}
