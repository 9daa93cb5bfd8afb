//! Norms, and where a block has them.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

use super::linear::vector;
use crate::checkpoint::Checkpoint;
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::{self, Kernels};

/// RMSNorm (Zhang and Sennrich 2019), or with a bias LayerNorm (Ba et al. 2016).
pub struct Norm<B: Backend> {
    /// `[width]`, f32
    weight: Tensor<B, 1>,
    /// `[width]`, f32
    bias: Option<Tensor<B, 1>>,
    eps: f32,
}

/// The norms around attention or an MLP, `f`: x → sum(x + output(f(input(x)))).
pub struct Norms<B: Backend> {
    pub input: Option<Norm<B>>,
    pub output: Option<Norm<B>>,
    pub sum: Option<Norm<B>>,
}

impl<B: Kernels> Norm<B> {
    pub fn load(checkpoint: &Checkpoint, module: &str, device: &B::Device) -> Result<Self> {
        let config = checkpoint.config();
        let read = |kind: &str| vector(checkpoint, &format!("{module}.{kind}"), device, ComputeType::F32);
        let weight = read("weight")?;
        let weight = if config.norm_offset == 0.0 { weight } else { weight + config.norm_offset };
        let bias = config.layer_norms().then(|| read("bias")).transpose()?;
        Ok(Self { weight, bias, eps: config.rms_norm_eps as f32 })
    }

    /// `[T, width]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let Some(bias) = &self.bias else {
            return kernels::rms_norm(x, self.weight.clone(), self.eps);
        };
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let x = x.clone() - x.mean_dim(1);
        // What is centred has its variance as its mean square.
        let y = kernels::rms_norm(x, self.weight.clone(), self.eps) + bias.clone().unsqueeze();
        y.cast(dtype)
    }

    /// Every head by itself: `[T, heads, width]`.
    pub fn heads(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [rows, heads, dim] = x.dims();
        self.forward(x.reshape([rows * heads, dim])).reshape([rows, heads, dim])
    }
}

impl<B: Kernels> Norms<B> {
    /// What attention or the MLP sees of the residual.
    pub fn input(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        through(&self.input, x)
    }

    /// The residual with what they give.
    pub fn add(&self, x: Tensor<B, 2>, y: Tensor<B, 2>) -> Tensor<B, 2> {
        through(&self.sum, x + through(&self.output, y))
    }
}

fn through<B: Kernels>(norm: &Option<Norm<B>>, x: Tensor<B, 2>) -> Tensor<B, 2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
