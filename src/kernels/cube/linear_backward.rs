//! The backward pass of products of one input with packed weights. The gradient of the input is a product with the
//! unpacked weights, as in the forward pass. That of the scales is a product of gradient and input, a scratch of some rows
//! of a weight at a time, which is then multiplied by the weights and summed over their groups.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::buffers::{empty, reshaped};
use super::packed::CubeWeight;
use super::product::{add_product, expected, unpacked};
use super::product_form::ProductForm;
use super::unpack::MovedWeight;
use super::{dense, group_sums};
use crate::kernels::{GRADIENT_SCRATCH, LinearGradients, MatmulEngine};

/// The gradients of the input, if it is wanted, and of the logarithms of the scales, if `x` is given.
///
/// # Shapes
/// `x`: `[T, in_features]`; `dy`: `[T, out_features]` each; all contiguous and of one type.
pub(super) fn linear_backward<R: CubeRuntime, const N: usize>(
    x: Option<CubeTensor<R>>,
    weights: [CubeWeight<R>; N],
    dy: [CubeTensor<R>; N],
    wants_input: bool,
) -> LinearGradients<CubeTensor<R>, N> {
    // First, so that the gradient of the input may take the buffer of the input.
    let scales = x.map(|x| {
        let mut dy = dy.iter();
        weights.each_ref().map(|weight| {
            let gradient = empty(&x, [weight.out_features * weight.groups()], DType::F32);
            dy.next().into_iter().for_each(|dy| scales_gradient(&x, weight.clone(), dy, gradient.clone()));
            gradient
        })
    });
    let input = wants_input.then(|| input_gradient(&weights, &dy)).flatten();
    LinearGradients { input, scales }
}

/// `Σ dy · W`: `[T, in_features]`
fn input_gradient<R: CubeRuntime>(weights: &[CubeWeight<R>], dy: &[CubeTensor<R>]) -> Option<CubeTensor<R>> {
    weights.iter().zip(dy).fold(None, |sum, (weight, dy)| {
        let w = unpacked(MovedWeight { packed: weight.clone(), parts: vec![None] }, dy);
        let w = reshaped(w, [weight.out_features, weight.in_features]);
        Some(add_product(sum, ProductForm::Plain, [dy.clone(), w]))
    })
}

/// Writes the gradient of the logarithms of a weight's scales, `Σ_j W[o, j] · (dyᵀ · x)[o, j]` over each group.
fn scales_gradient<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: CubeWeight<R>,
    dy: &CubeTensor<R>,
    gradient: CubeTensor<R>,
) {
    let (out, input, tokens) = (weight.out_features, weight.in_features, x.shape()[0]);
    let rows = rows_at_a_time(out, input);
    // Of one size for all weights of the model, since the memory pools keep a buffer for each size.
    let elements = (GRADIENT_SCRATCH / size_of::<f32>()).min(expected(&x.device));
    let scratch = empty(x, [elements.max(rows.min(out) * input)], DType::F32);
    let x = reshaped(x.clone(), [1, tokens, input]);
    for begin in (0..out).step_by(rows) {
        let count = rows.min(out - begin);
        let products = reshaped(scratch.clone(), [1, count, input]);
        let sides = [&columns(dy, begin, count), &x];
        let made = dense::multiply(MatmulEngine::Fastest, ProductForm::LeftTransposed, sides, &products);
        made.unwrap_or_else(|what| unreachable!("the naive product takes every shape: {what}"));
        group_sums::launch(weight.clone(), products, begin, gradient.clone());
    }
}

/// Alignment of a slice of a buffer in elements, for the widest type.
const ALIGNMENT: usize = 256;

/// Rows of equal scratches; the columns of `dy` that belong to one must begin where a slice of a buffer may.
fn rows_at_a_time(out: usize, input: usize) -> usize {
    let most = (GRADIENT_SCRATCH / (input * size_of::<f32>()) / ALIGNMENT).max(1) * ALIGNMENT;
    out.div_ceil(out.div_ceil(most)).next_multiple_of(ALIGNMENT)
}

/// Columns `begin ..` of a contiguous `[T, width]` as `[1, T, count]`; nothing is copied.
fn columns<R: CubeRuntime>(tensor: &CubeTensor<R>, begin: usize, count: usize) -> CubeTensor<R> {
    let (rows, width) = (tensor.shape()[0], tensor.shape()[1]);
    let mut columns = reshaped(tensor.clone(), [1, rows, width]);
    columns.meta.shape_mut()[2] = count;
    columns.handle = columns.handle.offset_start((begin * tensor.dtype.size()) as u64);
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratches_are_bounded_and_begin_at_slices() {
        for (out, input) in [(5120, 5120), (13_824, 5120), (5120, 13_824), (8, 8), (300, 40_000_000)] {
            let rows = rows_at_a_time(out, input);
            assert!(rows.is_multiple_of(ALIGNMENT));
            assert!(rows == ALIGNMENT || rows * input * 4 <= GRADIENT_SCRATCH, "{out} × {input}: {rows}");
        }
        assert_eq!(rows_at_a_time(13_824, 5120), 2816);
    }
}
