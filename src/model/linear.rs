//! `y = x·Wᵀ + b` with a dense or a quantized weight, and its backward pass.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use super::gradient::ScaleForm;
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
    /// Parameter id of the bias, where it is trained.
    pub bias_parameter: Option<u32>,
    /// Parameter id of the weight's minima, where they are trained.
    pub minima_parameter: Option<u32>,
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
        Ok(Self { weight, bias, bias_parameter: None, minima_parameter: None })
    }

    /// Applies the linear layer: `[T, in_features]` → `[T, out_features]`.
    pub fn forward(&self, x: Tensor<B, 2>, signs: Signs) -> Tensor<B, 2> {
        let [y] = forward([self], x, signs);
        y
    }

    /// The backward pass of [`Self::forward`]. Returns the gradient of `x`, if it is wanted.
    pub fn backward(
        &self,
        x: Tensor<B, 2>,
        product: LinearOutput<B>,
        wants_input: bool,
        gradients: &mut Gradients<B>,
    ) -> Option<Tensor<B, 2>> {
        backward([self], x, [product], wants_input, gradients)
    }

    /// The gradient of the input alone: `[T, out_features]` → `[T, in_features]`.
    pub fn input_gradient(&self, dy: Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        match &self.weight {
            LinearWeight::Dense(weight) => Some(kernels::dense_linear_backward(dy, weight.clone())),
            LinearWeight::Packed(weight) => kernels::linear_backward(None, [weight], [dy], true).0,
        }
    }

    fn without_bias(&self, y: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.bias {
            Some(bias) => y - bias.clone().unsqueeze(),
            None => y,
        }
    }

    /// The gradients of the bias, Σ_t dy[t, o], and of the minima, Σ_t dy[t, o] · Σ_{j in g} x[t, j], where they are trained.
    fn tensor_gradients(&self, x: &Tensor<B, 2>, dy: &Tensor<B, 2>, gradients: &mut Gradients<B>) {
        let wide = |x: &Tensor<B, 2>| x.clone().cast(DType::F32);
        if let Some(parameter) = self.bias_parameter {
            gradients.found.push((parameter, vec![wide(dy).sum_dim(0).reshape([-1])]));
        }
        if let (Some(parameter), Some(weight)) = (self.minima_parameter, self.packed()) {
            let sums = weight.sum_groups(wide(x)).transpose(); // [groups, T]
            let minima = kernels::dense_linear_backward(sums, wide(dy)).transpose(); // [out_features, groups]
            gradients.found.push((parameter, vec![minima.reshape([-1])]));
        }
    }

    /// The weight, if it is packed.
    pub fn packed(&self) -> Option<&DeviceWeight<B>> {
        match &self.weight {
            LinearWeight::Packed(weight) => Some(weight),
            LinearWeight::Dense(_) => None,
        }
    }
}

impl<B: Backend> Linear<B> {
    /// The weight, if it is packed.
    pub fn packed_mut(&mut self) -> Option<&mut DeviceWeight<B>> {
        match &mut self.weight {
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

    /// The backward pass of [`Self::forward`]. Returns the gradient of `x`, if it is wanted.
    pub fn backward(
        &self,
        x: Tensor<B, 2>,
        products: [LinearOutput<B>; N],
        wants_input: bool,
        gradients: &mut Gradients<B>,
    ) -> Option<Tensor<B, 2>> {
        match self {
            Self::Apart(linears) => backward(linears.each_ref(), x, products, wants_input, gradients),
            Self::Fused(linear, _) => {
                let dy = products.iter().map(|product| product.dy.clone()).collect();
                let y: Option<Vec<_>> = products.into_iter().map(|product| product.y).collect();
                let product = LinearOutput { y: y.map(|y| Tensor::cat(y, 1)), dy: Tensor::cat(dy, 1) };
                backward([linear], x, [product], wants_input, gradients)
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

/// A product and the gradient of the loss with respect to it: `[T, out_features]` each.
pub struct LinearOutput<B: Backend> {
    /// The product, with its bias. It saves time where factors are trained, and is not used where scales are.
    pub y: Option<Tensor<B, 2>>,
    pub dy: Tensor<B, 2>,
}

/// The gradients of scales, and of the tensors trained beside them, that a backward pass has computed so far.
pub struct Gradients<B: Backend> {
    pub form: ScaleForm,
    /// Whether the gradient of the block's input is wanted.
    pub of_input: bool,
    /// Parameter ids, and gradients in f32 as [`super::ScaleGradient`] orders them. A second part follows the first.
    pub found: Vec<(u32, Vec<Tensor<B, 1>>)>,
}

/// The backward pass of several linears of one input. Returns the gradient of the input, if it is wanted.
fn backward<B: Kernels, const N: usize>(
    linears: [&Linear<B>; N],
    x: Tensor<B, 2>,
    products: [LinearOutput<B>; N],
    wants_input: bool,
    gradients: &mut Gradients<B>,
) -> Option<Tensor<B, 2>> {
    for (linear, product) in linears.iter().zip(&products) {
        linear.tensor_gradients(&x, &product.dy, gradients);
    }
    // The factors of columns need the gradient of the input by each weight alone.
    let together = N == 1 || gradients.form != ScaleForm::Factors;
    if let Some(weights) = all_packed(linears).filter(|_| together) {
        return packed_backward(linears, weights, x, products, wants_input, gradients);
    }
    let each = linears.into_iter().zip(products).map(|(linear, product)| match linear.packed() {
        Some(weight) => packed_backward([linear], [weight], x.clone(), [product], wants_input, gradients),
        None if wants_input => linear.input_gradient(product.dy),
        None => None,
    });
    each.flatten().reduce(|a, b| a + b)
}

/// The backward pass of linears whose weights are packed: several in the forms of scales and rows, one in that of
/// factors.
fn packed_backward<B: Kernels, const N: usize>(
    linears: [&Linear<B>; N],
    weights: [&DeviceWeight<B>; N],
    x: Tensor<B, 2>,
    products: [LinearOutput<B>; N],
    wants_input: bool,
    gradients: &mut Gradients<B>,
) -> Option<Tensor<B, 2>> {
    let form = gradients.form;
    let is_trained = weights.iter().any(|weight| weight.parameter.is_some());
    // A group whose scale is 0 is constant and does not move with its row: its share has to be left out.
    let by_scale = form == ScaleForm::Scales || weights.iter().any(|weight| weight.has_constant_groups);
    let by_column = form == ScaleForm::Factors && is_trained && !by_scale;
    let dy = products.each_ref().map(|product| product.dy.clone());
    // The input is held no longer than it is needed, so that its gradient may take its place.
    let kept = by_column.then(|| x.clone());
    let given = (is_trained && by_scale).then_some(x);
    let (dx, scales) = kernels::linear_backward(given, weights, dy, wants_input || by_column);
    let mut scales = scales.into_iter().flatten();
    for ((linear, weight), LinearOutput { y, dy }) in linears.into_iter().zip(weights).zip(products) {
        let scales = scales.next();
        let Some(parameter) = weight.parameter else { continue };
        let parts = match (scales, y) {
            (Some(scales), _) if form == ScaleForm::Scales => [Some(scales), None],
            (Some(scales), _) => {
                let scales = scales.reshape([weight.packed.out_features, weight.packed.groups()]);
                let columns = (form == ScaleForm::Factors).then(|| scales.clone().sum_dim(0).reshape([-1]));
                [Some(scales.sum_dim(1).reshape([-1])), columns]
            }
            (None, Some(y)) => {
                let columns = kept.as_ref().zip(dx.as_ref()).map(|(x, dx)| {
                    let products = kernels::sum_of_products(x.clone(), dx.clone());
                    weight.sum_groups(products.unsqueeze()).reshape([-1])
                });
                [Some(kernels::sum_of_products(dy, linear.without_bias(y))), columns]
            }
            (None, None) => [None, None],
        };
        gradients.found.push((parameter, parts.into_iter().flatten().collect()));
    }
    dx.filter(|_| wants_input)
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
