//! Norms, their places in a block, and their backward passes.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

use super::linear::{Gradients, vector};
use crate::checkpoint::Checkpoint;
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::{self, Kernels};

/// RMSNorm (Zhang and Sennrich 2019); with a bias, LayerNorm (Ba et al. 2016).
pub struct Norm<B: Backend> {
    /// `[width]`, f32
    weight: Tensor<B, 1>,
    /// `[width]`, f32
    bias: Option<Tensor<B, 1>>,
    eps: f32,
    /// Parameter ids of weight and bias, where they are trained.
    parameters: [Option<u32>; 2],
}

/// A tensor of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPart {
    Weight,
    Bias,
}

/// The norms around attention or an MLP, `f`: x → sum(x + output(f(input(x)))).
pub struct Norms<B: Backend> {
    pub input: Option<Norm<B>>,
    pub output: Option<Norm<B>>,
    pub sum: Option<Norm<B>>,
}

/// The residual stream, `[T, hidden]`: `sum + branch`. The branch is the last output of attention or an MLP. The next
/// norm adds it to the sum, because adding and norming together is faster.
pub struct Residual<B: Backend> {
    sum: Tensor<B, 2>,
    branch: Option<Tensor<B, 2>>,
}

impl<B: Backend> From<Tensor<B, 2>> for Residual<B> {
    fn from(sum: Tensor<B, 2>) -> Self {
        Self { sum, branch: None }
    }
}

impl<B: Kernels> Residual<B> {
    /// Adds the branch to the sum.
    pub fn sum(self) -> Tensor<B, 2> {
        match self.branch {
            Some(branch) => kernels::add(self.sum, branch),
            None => self.sum,
        }
    }
}

impl<B: Kernels> Norm<B> {
    pub fn load(checkpoint: &Checkpoint, module: &str, device: &B::Device) -> Result<Self> {
        let config = checkpoint.config();
        let read = |kind: &str| vector(checkpoint, &format!("{module}.{kind}"), device, ComputeType::F32);
        let weight = read("weight")?;
        let weight = if config.norm_offset == 0.0 { weight } else { weight + config.norm_offset };
        let bias = config.layer_norms().then(|| read("bias")).transpose()?;
        Ok(Self { weight, bias, eps: config.norm_eps(), parameters: [None; 2] })
    }

    /// Divides the result by a number.
    pub fn divided(mut self, by: f32) -> Self {
        if by != 1.0 {
            self.weight = self.weight / by;
            self.bias = self.bias.map(|bias| bias / by);
        }
        self
    }

    /// Makes the weight or the bias a trained tensor.
    pub fn train(&mut self, part: NormPart, parameter: u32) {
        self.parameters[part as usize] = Some(parameter);
    }

    /// Sets the weight, as the forward pass multiplies by it, or the bias: `[width]`.
    pub fn set(&mut self, part: NormPart, values: Tensor<B, 1>) {
        match part {
            NormPart::Weight => self.weight = values,
            NormPart::Bias => self.bias = Some(values),
        }
    }

    /// Whether weight or bias is trained.
    pub fn is_trained(&self) -> bool {
        self.parameters != [None; 2]
    }

    /// Norms each row of `[T, width]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let Some(bias) = &self.bias else {
            return kernels::rms_norm(x, self.weight.clone(), self.eps);
        };
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let x = x.clone() - x.mean_dim(1);
        // The variance of centred values is their mean square.
        let y = kernels::rms_norm(x, self.weight.clone(), self.eps) + bias.clone().unsqueeze();
        y.cast(dtype)
    }

    /// The backward pass of [`Self::forward`]: the gradient of `x`.
    pub fn backward(&self, x: Tensor<B, 2>, dy: Tensor<B, 2>, gradients: &mut Gradients<B>) -> Tensor<B, 2> {
        self.own_gradients(&x, &dy, gradients);
        if self.bias.is_none() {
            return kernels::rms_norm_backward(x, self.weight.clone(), self.eps, dy);
        }
        let dtype = x.dtype();
        let [x, dy] = [x, dy].map(|t| t.cast(DType::F32));
        let centred = x.clone() - x.mean_dim(1);
        let dx = kernels::rms_norm_backward(centred, self.weight.clone(), self.eps, dy);
        (dx.clone() - dx.mean_dim(1)).cast(dtype)
    }

    /// The gradients of weight and bias, where they are trained: dw = Σ_t dy ∘ norm(x) with a weight of 1, db = Σ_t dy.
    fn own_gradients(&self, x: &Tensor<B, 2>, dy: &Tensor<B, 2>, gradients: &mut Gradients<B>) {
        let [weight, bias] = self.parameters;
        let wide = |x: &Tensor<B, 2>| x.clone().cast(DType::F32);
        if let Some(parameter) = weight {
            let x = wide(x);
            let x = if self.bias.is_some() { x.clone() - x.mean_dim(1) } else { x };
            let normed = kernels::rms_norm(x, self.weight.ones_like(), self.eps);
            let dw = (wide(dy) * normed).sum_dim(0).reshape([-1]);
            gradients.found.push((parameter, vec![dw]));
        }
        if let Some(parameter) = bias {
            gradients.found.push((parameter, vec![wide(dy).sum_dim(0).reshape([-1])]));
        }
    }

    /// Returns the sum of a residual, and the normed sum.
    pub fn sum_and_norm(&self, residual: Residual<B>) -> [Tensor<B, 2>; 2] {
        match residual {
            Residual { sum, branch: Some(branch) } if self.bias.is_none() => {
                kernels::add_rms_norm(sum, branch, self.weight.clone(), self.eps)
            }
            residual => {
                let sum = residual.sum();
                [sum.clone(), self.forward(sum)]
            }
        }
    }

    /// Norms every group of `width` neighbours in a row by itself: `[T, groups · width]`.
    pub fn groups(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let shape = x.dims();
        self.forward(self.as_rows(x)).reshape(shape)
    }

    /// The backward pass of [`Self::groups`].
    pub fn groups_backward(
        &self,
        x: Tensor<B, 2>,
        dy: Tensor<B, 2>,
        gradients: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let shape = x.dims();
        self.backward(self.as_rows(x), self.as_rows(dy), gradients).reshape(shape)
    }

    /// `[T, groups · width]` → `[T · groups, width]`
    fn as_rows(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let ([rows, columns], [width]) = (x.dims(), self.weight.dims());
        x.reshape([rows * columns / width, width])
    }
}

impl<B: Kernels> Norms<B> {
    /// Returns the sum of a residual, and the input of attention or the MLP: the normed sum, if there is an input norm.
    pub fn input(&self, residual: Residual<B>) -> [Tensor<B, 2>; 2] {
        match &self.input {
            Some(norm) => norm.sum_and_norm(residual),
            None => {
                let x = residual.sum();
                [x.clone(), x]
            }
        }
    }

    /// Adds `y`, the output of attention or the MLP, to the residual `x`, with the output and sum norms if there are
    /// any.
    pub fn add(&self, x: Tensor<B, 2>, y: Tensor<B, 2>) -> Residual<B> {
        let y = match &self.output {
            Some(norm) => norm.forward(y),
            None => y,
        };
        let residual = Residual { sum: x, branch: Some(y) };
        match &self.sum {
            Some(norm) => {
                let [_, normed] = norm.sum_and_norm(residual);
                normed.into()
            }
            None => residual,
        }
    }

    /// The backward pass of [`Self::input`]: adds the gradient that comes through the input norm, `dh`, to that of `x`.
    pub fn input_backward(
        &self,
        x: Tensor<B, 2>,
        dh: Tensor<B, 2>,
        dx: Tensor<B, 2>,
        gradients: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let dh = match &self.input {
            Some(norm) => norm.backward(x, dh, gradients),
            None => dh,
        };
        kernels::add(dx, dh)
    }
}
