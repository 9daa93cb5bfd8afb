//! `y = x · W(s ± e·k)ᵀ` for packed weights that share an input, and the choice of its path.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::add;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::{Device, DeviceId};

use super::buffers::{empty, reshaped};
use super::packed::CubeWeight;
use super::product_form::ProductForm;
use super::unpack::MovedWeight;
use super::{cublas, dense, fused, move_scales, unpack};
use crate::kernels::{MatmulEngine, MatmulPath};
use crate::zo::direction::Move;

/// Most rows of the input, all parts together, for which the fused product is taken where cuBLAS is missing.
///
/// Writing and reading the dense weight costs the same for one row as for thousands, while the fused product
/// unpacks again for every tile of rows. Where cuBLAS is there, the fused product is slower for any number of rows: on an
/// H200, for weights of 5120 × 5120 and larger, it has 0.4 to 0.7 of the speed for 2 rows and 0.14 for 512.
pub(super) const FUSED_ROWS: usize = 512;

/// The products of one input with several weights.
///
/// # Shapes
/// `x`: `[parts × T, in_features]`, contiguous, in equal parts, each with its own perturbation; the results:
/// `[parts × T, out_features]`.
///
/// # Errors
/// The reason why this device cannot take the path; [`MatmulPath::Auto`] always works.
pub(super) fn products<R: CubeRuntime, const N: usize>(
    path: MatmulPath,
    x: &CubeTensor<R>,
    weights: [MovedWeight<R>; N],
) -> Result<[CubeTensor<R>; N], String> {
    let rows = x.shape()[0];
    let outs = weights.each_ref().map(|weight| empty(x, [rows, weight.packed.out_features], x.dtype));
    let engine = match path {
        MatmulPath::Dense(engine) => engine,
        MatmulPath::Auto | MatmulPath::Fused => MatmulEngine::Fastest,
    };
    let few = |rows| rows <= FUSED_ROWS && !cublas::is_open::<R>(&x.device);
    let fuse = path == MatmulPath::Fused || (path == MatmulPath::Auto && few(rows));
    for (weight, out) in weights.into_iter().zip(&outs) {
        let (input, y) = in_parts(x, out, &weight);
        match fuse.then(|| fused::launch(input.clone(), with_moved_scales(&weight), y.clone())) {
            Some(Ok(())) => {}
            Some(Err(error)) if path == MatmulPath::Fused => return Err(format!("{error:?}")),
            _ => {
                let w = unpacked(weight, x);
                dense::multiply(engine, ProductForm::RightTransposed, [&input, &w], &y)?;
            }
        }
    }
    Ok(outs)
}

/// Unpacks the weight of every part: `[parts, out_features, in_features]` in the type of `like`.
pub(super) fn unpacked<R: CubeRuntime>(weight: MovedWeight<R>, like: &CubeTensor<R>) -> CubeTensor<R> {
    let shape = [weight.parts.len(), weight.packed.out_features, weight.packed.in_features];
    // Of one size for all products of the model: the memory pools keep a buffer for each size.
    let elements = shape.iter().product::<usize>().max(shape[0] * expected(&like.device));
    let scratch = empty(like, [elements], like.dtype);
    unpack::launch(weight, scratch.clone());
    reshaped(scratch, shape)
}

/// The product of two matrices in their type.
///
/// # Shapes
/// `left` and `right`: `[rows, columns]` as `form` says, contiguous; result: `[m, n]`, contiguous.
pub(super) fn dense_product<R: CubeRuntime>(
    form: ProductForm,
    [left, right]: [CubeTensor<R>; 2],
) -> CubeTensor<R> {
    let [of_left, of_right] = form.transposed().map(usize::from);
    let (m, n) = (left.shape()[of_left], right.shape()[1 - of_right]);
    let out = empty(&left, [m, n], left.dtype);
    let [left, right, one] = [left, right, out.clone()].map(one_part);
    let made = dense::multiply(MatmulEngine::Fastest, form, [&left, &right], &one);
    made.unwrap_or_else(|what| unreachable!("the naive product takes every shape: {what}"));
    out
}

/// Adds the product of two matrices to `sum`, or begins a sum with it. Arguments and result: see [`dense_product`].
pub(super) fn add_product<R: CubeRuntime>(
    sum: Option<CubeTensor<R>>,
    form: ProductForm,
    sides: [CubeTensor<R>; 2],
) -> CubeTensor<R> {
    let Some(sum) = sum else { return dense_product(form, sides) };
    let [left, right] = sides.each_ref().map(|side| one_part(side.clone()));
    match cublas::multiply(form, [&left, &right], &one_part(sum.clone()), 1.0) {
        Ok(()) => sum,
        Err(_) => add(sum, dense_product(form, sides)),
    }
}

/// A matrix as `[1, rows, columns]`.
fn one_part<R: CubeRuntime>(matrix: CubeTensor<R>) -> CubeTensor<R> {
    let [rows, columns] = matrix.shape().dims();
    reshaped(matrix, [1, rows, columns])
}

/// Elements of the model's largest packed weight, for each device.
static EXPECTED: Mutex<BTreeMap<(TypeId, DeviceId), usize>> = Mutex::new(BTreeMap::new());

/// See [`Kernels::expect_unpacked`](crate::kernels::Kernels::expect_unpacked).
pub(super) fn expect<D: Device>(elements: usize, device: &D) {
    let mut expected = EXPECTED.lock().unwrap_or_else(PoisonError::into_inner);
    expected.insert((TypeId::of::<D>(), device.to_id()), elements);
}

/// The elements that [`expect`] announced; 0 if it did not.
pub(super) fn expected<D: Device>(device: &D) -> usize {
    let expected = EXPECTED.lock().unwrap_or_else(PoisonError::into_inner);
    expected.get(&(TypeId::of::<D>(), device.to_id())).copied().unwrap_or(0)
}

/// `x` and `out` by the parts of a weight: `[parts, T, features]`.
fn in_parts<R: CubeRuntime>(
    x: &CubeTensor<R>,
    out: &CubeTensor<R>,
    weight: &MovedWeight<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (parts, rows) = (weight.parts.len(), x.shape()[0]);
    let by_parts =
        |tensor: &CubeTensor<R>, features| reshaped(tensor.clone(), [parts, rows / parts, features]);
    (by_parts(x, weight.packed.in_features), by_parts(out, weight.packed.out_features))
}

/// The weight with the scales of every part: `[parts × out_features × groups]`.
fn with_moved_scales<R: CubeRuntime>(weight: &MovedWeight<R>) -> CubeWeight<R> {
    let packed = weight.packed.clone();
    CubeWeight { scales: moved(packed.scales, &weight.parts), ..packed }
}

/// The scales of every part: `[parts × out_features × groups]`.
fn moved<R: CubeRuntime>(scales: CubeTensor<R>, parts: &[Option<(u32, Move)>]) -> CubeTensor<R> {
    let count = scales.shape().num_elements();
    match *parts {
        [Some((parameter, displacement)), ..] => {
            let out = empty(&scales, [parts.len() * count], DType::F32);
            move_scales::launch(scales, parameter, displacement, out.clone());
            out
        }
        _ => scales,
    }
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
mod tests {
    use burn::tensor::{Tensor, TensorData};
    use burn_wgpu::Wgpu;

    use super::super::packed::cube_weight;
    use super::*;
    use crate::device::{ComputeType, Device, for_tests};
    use crate::kernels::DeviceWeight;
    use crate::packed::{Codebook, Levels, PackedWeight, words_per_row};

    /// Otherwise every test of the fused path would test the dense one.
    #[test]
    fn the_fused_product_takes_shapes_that_are_multiples_of_nothing() {
        let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
        let octets = Codebook { width: 8, num_codebooks: 2, entries: vec![-2.0; 2 * 8 * 8] };
        for (parts, rows, out, input, levels) in [
            (1, 1, 3, 72, Levels::Zero(4)),
            (1, 5, 37, 101, Levels::Zero(4)),
            (2, 33, 17, 75, Levels::Zero(4)),
            (2, 128, 256, 512, Levels::Zero(4)),
            (1, 1, 1, 1, Levels::Zero(4)),
            (2, 33, 17, 80, Levels::Codebook(octets)),
        ] {
            let weight = PackedWeight {
                out_features: out,
                in_features: input,
                bits: 3,
                group_size: 24,
                codes: vec![0; out * words_per_row(levels.kind().codes(input), 3)],
                scales: vec![1.0; parts * out * input.div_ceil(24)],
                levels,
                perm: None,
            };
            let weight = DeviceWeight::<Wgpu>::upload(weight, None, ComputeType::F32, &device);
            let x = TensorData::new(vec![1.0f32; parts * rows * input], [parts, rows, input]);
            let x = Tensor::<Wgpu, 3>::from_data(x, &device).into_primitive().tensor();
            let y = empty(&x, [parts, rows, out], x.dtype);
            fused::launch(x, cube_weight(&weight), y.clone()).unwrap();
            let y = Tensor::<Wgpu, 3>::from_primitive(burn::tensor::TensorPrimitive::Float(y));
            let want = vec![-4.0 * input as f32; parts * rows * out];
            assert_eq!(y.into_data().into_vec::<f32>().unwrap(), want, "{parts}×{rows}×{out}×{input}");
        }
    }
}
