//! `y = x · W(s ± e·k)ᵀ` and which way it is computed.

use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

use super::packed::Buffers;
use super::{fused, step, unpack};
use crate::kernels::Path;
use crate::zo::perturbation::Noise;

/// Rows of the input, all parts together, up to which the fused product is taken.
///
/// Writing and reading the dense weight costs the same for one row as for thousands: by the bytes moved, 160 %
/// of the product itself at 128 rows, 20 % at 1024, 5 % at 4096 on a card of 165 TFLOP/s and 1 TB/s. The fused
/// product unpacks again for every tile of rows, so it loses a share of its speed at any number of rows. The
/// threshold is where a share of about 40 % breaks even; the bench times both paths, to measure the crossing.
pub(super) const FUSED_ROWS: usize = 512;

/// # Shapes
/// `x`: `[parts × T, in_features]`, contiguous, in equal parts, each with its own perturbation; the result:
/// `[parts × T, out_features]`.
pub(super) fn product<R: CubeRuntime>(
    path: Path,
    x: CubeTensor<R>,
    packed: Buffers<R>,
    parts: &[Option<(u32, Noise)>],
) -> CubeTensor<R> {
    let (rows, n) = (x.shape()[0], packed.out_features);
    let x = reshaped(x, [parts.len(), rows / parts.len(), packed.in_features]);
    let packed = Buffers { scales: moved(packed.scales, parts), ..packed };
    let out = empty(&x, [parts.len(), rows / parts.len(), n], x.dtype);
    let fuse = match path {
        Path::Auto => rows <= FUSED_ROWS,
        Path::Dense => false,
        Path::Fused => true,
    };
    if !fuse || fused::launch(x.clone(), packed.clone(), out.clone()).is_err() {
        dense(x, packed, out.clone());
    }
    reshaped(out, [rows, n])
}

/// # Shapes
/// `x`: `[parts, T, in_features]`; `out`: `[parts, T, out_features]`.
fn dense<R: CubeRuntime>(x: CubeTensor<R>, packed: Buffers<R>, out: CubeTensor<R>) {
    let client = x.client.clone();
    let (parts, n, k) = (x.shape()[0], packed.out_features, packed.in_features);
    let scratch = empty(&x, [parts, n, k], x.dtype);
    unpack::launch(packed, scratch.clone());
    let dtype = x.dtype.into();
    // On cards that have tf32 the accelerated tiles would round f32 to it.
    let accelerated = (x.dtype != DType::F32).then(|| Strategy::SimpleCyclicCmma(Default::default()));
    let strategies = [Strategy::SimpleUnit(Default::default()), Strategy::Naive];
    let (x, mut scratch) =
        (InputBinding::new(x.binding(), dtype), InputBinding::new(scratch.binding(), dtype));
    scratch.swap_dims(1, 2);
    let launch = |strategy| -> Result<(), MatmulSetupError> {
        let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: dtype, rhs: dtype, out: dtype });
        launch_ref(&strategy, &client, x.clone(), scratch.clone(), out.clone().binding(), &mut types)
    };
    let launched = accelerated.into_iter().chain(strategies).any(|strategy| launch(strategy).is_ok());
    assert!(launched, "the naive product takes every shape");
}

/// The scales of every part: `[parts × out_features × groups]`.
fn moved<R: CubeRuntime>(scales: CubeTensor<R>, parts: &[Option<(u32, Noise)>]) -> CubeTensor<R> {
    let count = scales.shape().num_elements();
    match *parts {
        [Some((parameter, noise)), ..] => {
            let out = empty(&scales, [parts.len() * count], DType::F32);
            step::launch(scales, parameter, noise, out.clone());
            out
        }
        _ => scales,
    }
}

/// Contiguous, not initialised: the launch that follows writes every element.
pub(super) fn empty<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor<R> {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::new(shape), dtype)
}

fn reshaped<R: CubeRuntime, const D: usize>(tensor: CubeTensor<R>, shape: [usize; D]) -> CubeTensor<R> {
    let CubeTensor { client, handle, device, dtype, .. } = tensor;
    CubeTensor::new_contiguous(client, device, Shape::new(shape), handle, dtype)
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
mod tests {
    use burn::tensor::{Tensor, TensorData};
    use burn_wgpu::Wgpu;

    use super::super::buffers;
    use super::*;
    use crate::device::{ComputeType, Device, for_tests};
    use crate::kernels::DeviceWeight;
    use crate::kernels::packed::{Codebook, Levels, PackedWeight, words_per_row};

    /// Otherwise every test of the fused path would test the dense one.
    #[test]
    fn the_fused_product_takes_shapes_that_are_multiples_of_nothing() {
        let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
        let octets = Codebook { width: 8, books: 2, entries: vec![-2.0; 2 * 8 * 8] };
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
                order: None,
            };
            let weight = DeviceWeight::<Wgpu>::upload(weight, None, ComputeType::F32, &device);
            let x = TensorData::new(vec![1.0f32; parts * rows * input], [parts, rows, input]);
            let x = Tensor::<Wgpu, 3>::from_data(x, &device).into_primitive().tensor();
            let y = empty(&x, [parts, rows, out], x.dtype);
            fused::launch(x, buffers(&weight), y.clone()).unwrap();
            let y = Tensor::<Wgpu, 3>::from_primitive(burn::tensor::TensorPrimitive::Float(y));
            let want = vec![-4.0 * input as f32; parts * rows * out];
            assert_eq!(y.into_data().into_vec::<f32>().unwrap(), want, "{parts}×{rows}×{out}×{input}");
        }
    }
}
