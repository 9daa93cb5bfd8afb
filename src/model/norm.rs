//! Norms, and where a block has them.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::linear::vector;
use crate::checkpoint::Checkpoint;
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::{self, Kernels};

/// Root mean square (Zhang and Sennrich 2019).
pub struct Norm<B: Backend> {
    /// `[width]`, f32
    weight: Tensor<B, 1>,
    eps: f32,
}

impl<B: Kernels> Norm<B> {
    pub fn load(checkpoint: &Checkpoint, module: &str, device: &B::Device) -> Result<Self> {
        let weight = vector(checkpoint, &format!("{module}.weight"), device, ComputeType::F32)?;
        Ok(Self { weight, eps: checkpoint.config().rms_norm_eps as f32 })
    }

    /// `[T, width]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        kernels::rms_norm(x, self.weight.clone(), self.eps)
    }

    /// Every head by itself: `[T, heads, width]`.
    pub fn heads(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [rows, heads, dim] = x.dims();
        self.forward(x.reshape([rows * heads, dim])).reshape([rows, heads, dim])
    }
}
