//! `y = x·Wᵀ + b` with a dense or a quantized weight.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use crate::checkpoint::{Checkpoint, DenseValues, Weight};
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::{self, DeviceWeight, Kernels};
use crate::zo::direction::Signs;

/// A linear layer.
#[derive(Debug)]
pub struct Linear<B: Backend> {
    pub weight: LinearWeight<B>,
    /// `[out_features]`
    pub bias: Option<Tensor<B, 1>>,
}

/// The weight of a linear layer.
#[derive(Debug)]
pub enum LinearWeight<B: Backend> {
    /// `[out_features, in_features]`
    Dense(Tensor<B, 2>),
    Packed(DeviceWeight<B>),
}

impl<B: Kernels> Linear<B> {
    /// Loads `{name}.weight` and, if `bias` is true, `{name}.bias`.
    pub fn load(
        checkpoint: &Checkpoint,
        name: &str,
        bias: bool,
        trained: &[String],
        device: &B::Device,
        dtype: ComputeType,
    ) -> Result<Self> {
        let weight_name = format!("{name}.weight");
        let parameter = trained.binary_search(&weight_name).ok().map(|index| index as u32);
        let weight = match checkpoint.weight(&weight_name)? {
            Weight::Dense { shape, values } => {
                let data = match values {
                    DenseValues::F32(values) => TensorData::new(values, shape),
                    DenseValues::F16(values) => TensorData::new(values, shape),
                    DenseValues::Bf16(values) => TensorData::new(values, shape),
                };
                let kept = B::weight_type(data.dtype, dtype);
                LinearWeight::Dense(Tensor::from_data(data.convert_dtype(kept), (device, kept)))
            }
            Weight::Packed(packed) => {
                LinearWeight::Packed(DeviceWeight::upload(packed, parameter, dtype, device))
            }
        };
        let bias = match bias {
            true => Some(vector(checkpoint, &format!("{name}.bias"), device, dtype)?),
            false => None,
        };
        checkpoint.release();
        Ok(Self { weight, bias })
    }

    /// Applies the linear layer: `[T, in_features]` → `[T, out_features]`.
    pub fn forward(&self, x: Tensor<B, 2>, signs: Signs) -> Tensor<B, 2> {
        let [y] = forward([self], x, signs);
        y
    }

    /// The weight, if it is packed.
    pub fn packed(&self) -> Option<&DeviceWeight<B>> {
        match &self.weight {
            LinearWeight::Packed(weight) => Some(weight),
            LinearWeight::Dense(_) => None,
        }
    }
}

/// Several projections of one input.
pub enum Projections<B: Backend, const N: usize> {
    /// The checkpoint has a linear for each projection.
    Apart([Linear<B>; N]),
    /// The checkpoint has one linear, whose output features are those of the projections, this many of each in order.
    Fused(Linear<B>, [usize; N]),
}

impl<B: Kernels, const N: usize> Projections<B, N> {
    /// Applies the projections: `[T, in_features]` → `[T, out_features]` each.
    pub fn forward(&self, x: Tensor<B, 2>, signs: Signs) -> [Tensor<B, 2>; N] {
        match self {
            Self::Apart(linears) => forward(linears.each_ref(), x, signs),
            Self::Fused(linear, widths) => {
                let y = linear.forward(x, signs);
                let mut begin = 0;
                widths.map(|width| {
                    begin += width;
                    y.clone().narrow(1, begin - width, width)
                })
            }
        }
    }

    pub fn linears(&self) -> &[Linear<B>] {
        match self {
            Self::Apart(linears) => linears,
            Self::Fused(linear, _) => std::slice::from_ref(linear),
        }
    }

    pub fn linears_mut(&mut self) -> &mut [Linear<B>] {
        match self {
            Self::Apart(linears) => linears,
            Self::Fused(linear, _) => std::slice::from_mut(linear),
        }
    }
}

/// Applies several linears to one input: `[T, in_features]` → `[T, out_features]` each.
fn forward<B: Kernels, const N: usize>(
    linears: [&Linear<B>; N],
    x: Tensor<B, 2>,
    signs: Signs,
) -> [Tensor<B, 2>; N] {
    let products = match all_packed(linears) {
        Some(weights) => kernels::linear(x, weights, signs),
        None => linears.map(|linear| match &linear.weight {
            LinearWeight::Dense(weight) => kernels::dense_linear(x.clone(), weight.clone()),
            LinearWeight::Packed(weight) => {
                let [y] = kernels::linear(x.clone(), [weight], signs);
                y
            }
        }),
    };
    let mut biases = linears.iter().map(|linear| &linear.bias);
    products.map(|y| match biases.next() {
        Some(Some(bias)) => y + bias.clone().unsqueeze(),
        _ => y,
    })
}

fn all_packed<B: Kernels, const N: usize>(linears: [&Linear<B>; N]) -> Option<[&DeviceWeight<B>; N]> {
    let weights: Vec<_> = linears.into_iter().map(Linear::packed).collect::<Option<_>>()?;
    weights.try_into().ok()
}

/// Loads a rank-1 tensor of the checkpoint.
pub fn vector<B: Kernels>(
    checkpoint: &Checkpoint,
    name: &str,
    device: &B::Device,
    dtype: ComputeType,
) -> Result<Tensor<B, 1>> {
    let data = checkpoint.dense(name)?;
    let length = data.len();
    Ok(Tensor::<B, 1>::from_data(TensorData::new(data, [length]), (device, DType::F32))
        .cast(B::tensor_type(dtype)))
}
