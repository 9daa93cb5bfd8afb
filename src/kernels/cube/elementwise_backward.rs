//! The backward passes of gate and permutation. All arithmetic is f32 inside, whatever the type of the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::buffers::{array, empty_like};
use super::rows::{by_vectors, lanes, output, rows};
use crate::arch::Activation;
use crate::kernels::activation::{GELU_CUBIC, GELU_LINEAR};

/// Derivative of the cubic term at 1.
const GELU_SLOPE: f32 = 3.0 * GELU_CUBIC;

/// One unit per vector of a row; along y it goes on in steps of as many rows as the launch covers.
#[cube(launch_unchecked)]
fn gate_mul_backward_kernel<F: Float, N: Size>(
    gate: &Array<Vector<F, N>>,
    up: &Array<Vector<F, N>>,
    dy: &Array<Vector<F, N>>,
    gate_out: &mut Array<Vector<F, N>>,
    up_out: &mut Array<Vector<F, N>>,
    rows: usize,
    width: usize,
    gate_stride: usize,
    up_stride: usize,
    dy_stride: usize,
    #[comptime] activation: Activation,
    #[define(F)] _f: StorageType,
) {
    let i = ABSOLUTE_POS_X as usize;
    if i < width {
        let one = Vector::<f32, N>::new(1.0f32);
        let step = (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        for row in range_stepped(ABSOLUTE_POS_Y as usize, rows, step) {
            let x = Vector::<f32, N>::cast_from(gate[row * gate_stride + i]);
            let up = Vector::<f32, N>::cast_from(up[row * up_stride + i]);
            let dy = Vector::<f32, N>::cast_from(dy[row * dy_stride + i]);
            // The argument of the sigmoid and its derivative.
            let (v, inner) = match comptime!(activation) {
                Activation::Silu => (x, one),
                Activation::GeluTanh => {
                    let (linear, cubic) = (Vector::new(GELU_LINEAR), Vector::new(GELU_CUBIC));
                    (x * (linear + cubic * x * x), linear + Vector::new(GELU_SLOPE) * x * x)
                }
            };
            // A vector cannot be negated in CUDA.
            let sigmoid = one / (one + (Vector::new(0.0f32) - v).exp());
            let slope = sigmoid * (one + x * (one - sigmoid) * inner);
            gate_out[row * width + i] = Vector::cast_from(dy * up * slope);
            up_out[row * width + i] = Vector::cast_from(dy * x * sigmoid);
        }
    }
}

/// One unit per element of a row; along y as above.
#[cube(launch)]
fn permute_back_kernel<F: Float>(
    x: &Array<F>,
    perm: &Array<i32>,
    out: &mut Array<F>,
    rows: usize,
    width: usize,
    #[define(F)] _f: StorageType,
) {
    let i = ABSOLUTE_POS_X as usize;
    if i < width {
        let to = perm[i] as usize;
        let step = (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        for row in range_stepped(ABSOLUTE_POS_Y as usize, rows, step) {
            out[row * width + to] = x[row * width + i];
        }
    }
}

/// The gradients of gate and up, written in their place if nobody else holds them.
///
/// # Shapes
/// `gate`, `up`, `dy` and the results: `[T, width]`.
pub(super) fn gate_mul_backward<R: CubeRuntime>(
    [gate, up]: [CubeTensor<R>; 2],
    dy: CubeTensor<R>,
    activation: Activation,
) -> [CubeTensor<R>; 2] {
    let [(gate, gate_stride), (up, up_stride), (dy, dy_stride)] = [gate, up, dy].map(rows);
    let client = gate.client.clone();
    let (count, width, dtype) = (gate.shape()[0], gate.shape()[1], gate.dtype);
    let lanes = lanes(dtype.size(), &[width, gate_stride, up_stride, dy_stride]);
    let (cubes, units) = by_vectors(count, width / lanes);
    let ((gate_out, gate_arg), (up_out, up_arg)) = (output(&gate, 0), output(&up, 1));
    // SAFETY: a unit reads and writes rows below `count` and of their vectors one below `width / lanes`; the
    // strides are at least `width`, so that all lie within the buffers. In place, it reads before it writes, and the
    // two outputs are never one buffer, for then it is held twice.
    unsafe {
        gate_mul_backward_kernel::launch_unchecked::<R>(
            &client,
            cubes,
            units,
            lanes,
            array(gate),
            array(up),
            array(dy),
            gate_arg,
            up_arg,
            count,
            width / lanes,
            gate_stride / lanes,
            up_stride / lanes,
            dy_stride / lanes,
            activation,
            dtype.into(),
        );
    }
    [gate_out, up_out]
}

/// `out[t, perm[i]] = x[t, i]`
///
/// # Shapes
/// `x` and the result: `[T, width]`; `perm`: i32 `[width]`, each number below `width` once; all contiguous.
pub(super) fn permute_back<R: CubeRuntime>(x: CubeTensor<R>, perm: CubeTensor<R>) -> CubeTensor<R> {
    let client = x.client.clone();
    let (count, width, dtype) = (x.shape()[0], x.shape()[1], x.dtype);
    let (cubes, units) = by_vectors(count, width);
    let out = empty_like(&x);
    permute_back_kernel::launch::<R>(
        &client,
        cubes,
        units,
        array(x),
        array(perm),
        array(out.clone()),
        count,
        width,
        dtype.into(),
    );
    out
}
