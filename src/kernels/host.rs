//! Values in host memory.

use std::ops::{Deref, DerefMut};

use burn::tensor::backend::ExecutionError;
use burn::tensor::{Shape, TensorData};

use crate::device::faults;
use crate::error::Result;

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
    /// As for [`read`](super::read); but WGPU reports kernels that were not launched only to [`finish`](super::finish).
    pub fn wait(self) -> Result<TensorData> {
        faults::checked(self.0)
    }
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
