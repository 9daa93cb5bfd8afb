//! Values of tensors, on their way to the host and back.

use std::ops::{Deref, DerefMut};

use burn::tensor::backend::{Backend, ExecutionError};
use burn::tensor::{Shape, Tensor, TensorData, TensorPrimitive};

use super::backend::Kernels;
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

/// Values on their way to the host.
pub struct Reading(Box<dyn FnOnce() -> Result<TensorData, ExecutionError>>);

impl Reading {
    /// `wait` waits for the device to compute the values and to copy them.
    pub fn new(wait: impl FnOnce() -> Result<TensorData, ExecutionError> + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Waits for the values.
    ///
    /// # Errors
    /// As for [`read`]; but WGPU reports kernels that were not launched only to [`finish`].
    pub fn wait(self) -> Result<TensorData> {
        faults::checked(self.0)
    }
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

/// f32 values in host memory, where a device may have put them. They are used, changed and uploaded without a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFloats(TensorData);

impl HostFloats {
    /// The values as a tensor of rank 1.
    pub fn into_data(self) -> TensorData {
        let length = self.len();
        TensorData { shape: Shape::new([length]), ..self.0 }
    }
}

impl From<TensorData> for HostFloats {
    fn from(data: TensorData) -> Self {
        Self(data.convert::<f32>())
    }
}

impl From<Vec<f32>> for HostFloats {
    fn from(values: Vec<f32>) -> Self {
        let length = values.len();
        Self(TensorData::new(values, [length]))
    }
}

impl FromIterator<f32> for HostFloats {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        Vec::from_iter(values).into()
    }
}

impl Deref for HostFloats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_slice().unwrap_or_else(|error| unreachable!("they are f32: {error:?}"))
    }
}

impl DerefMut for HostFloats {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice().unwrap_or_else(|error| unreachable!("they are f32: {error:?}"))
    }
}
