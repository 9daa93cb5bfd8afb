//! Values of tensors, brought to the host.

use burn::tensor::backend::{Backend, ExecutionError};
use burn::tensor::{Tensor, TensorData};

use crate::device::faults;
use crate::error::{Error, Result};

/// Reads a tensor's values as f32. Waits for the device.
///
/// # Errors
/// Those of [`read_data`].
pub fn read<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>> {
    let values = read_data(tensor)?.convert::<f32>().into_vec();
    values
        .map_err(|error| Error::internal(format!("the device's answer is not a list of numbers: {error:?}")))
}

/// Reads a tensor in its own type. Waits for the device.
///
/// # Errors
/// A fault of a device of this process up to now, most often that its memory is full. No values that were computed
/// after a fault are returned.
pub fn read_data<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<TensorData> {
    let device = tensor.device();
    faults::checked(|| {
        let data = tensor.try_into_data()?;
        // Only here does WGPU report kernels that were not launched.
        B::sync(&device)?;
        Ok::<_, ExecutionError>(data)
    })
}
