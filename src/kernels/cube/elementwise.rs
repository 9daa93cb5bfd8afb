//! Rotation, gate and rows written to given places. All arithmetic is f32 inside, whatever the type of the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::buffers::array;
use super::launch::spread;
use super::rows::{UNITS, by_vectors, lanes, output, rows};
use crate::arch::Activation;
use crate::kernels::activation::{GELU_CUBIC, GELU_LINEAR};

/// Heads of a row; strides are in vectors.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Heads {
    count: usize,
    /// Stride of the rows that are read.
    from: usize,
    /// Stride of the rows that are written.
    to: usize,
}

/// One cube per row: the units along x are the vectors of a half, those along y the heads.
#[cube(launch_unchecked)]
fn rotate_kernel<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    k: &Array<Vector<F, N>>,
    cos: &Array<Vector<f32, N>>,
    sin: &Array<Vector<f32, N>>,
    q_out: &mut Array<Vector<F, N>>,
    k_out: &mut Array<Vector<F, N>>,
    q_heads: &Heads,
    k_heads: &Heads,
    rows: usize,
    half: usize,
    dim: usize,
    #[define(F)] _f: StorageType,
) {
    let row = CUBE_POS;
    if row < rows {
        for i in range_stepped(UNIT_POS_X as usize, half, CUBE_DIM_X as usize) {
            let (cos, sin) = (cos[row * half + i], sin[row * half + i]);
            turn(q, q_out, q_heads, row, i, half, dim, cos, sin);
            turn(k, k_out, k_heads, row, i, half, dim, cos, sin);
        }
        for i in range_stepped(2 * half + UNIT_POS_X as usize, dim, CUBE_DIM_X as usize) {
            keep(q, q_out, q_heads, row, i, dim);
            keep(k, k_out, k_heads, row, i, dim);
        }
    }
}

/// Rotates vector `i` of every head's first half with that of its second.
#[cube]
fn turn<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    heads: &Heads,
    row: usize,
    i: usize,
    half: usize,
    dim: usize,
    cos: Vector<f32, N>,
    sin: Vector<f32, N>,
) {
    for head in range_stepped(UNIT_POS_Y as usize, heads.count, CUBE_DIM_Y as usize) {
        let low = head * dim + i;
        let (from, to) = (row * heads.from + low, row * heads.to + low);
        let a = Vector::<f32, N>::cast_from(x[from]);
        let b = Vector::<f32, N>::cast_from(x[from + half]);
        out[to] = Vector::cast_from(a * cos - b * sin);
        out[to + half] = Vector::cast_from(b * cos + a * sin);
    }
}

/// Copies vector `i` of every head.
#[cube]
fn keep<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    heads: &Heads,
    row: usize,
    i: usize,
    dim: usize,
) {
    for head in range_stepped(UNIT_POS_Y as usize, heads.count, CUBE_DIM_Y as usize) {
        let at = head * dim + i;
        out[row * heads.to + at] = x[row * heads.from + at];
    }
}

/// One unit per vector of a row; along y it goes on in steps of as many rows as the launch covers.
#[cube(launch_unchecked)]
fn gate_mul_kernel<F: Float, N: Size>(
    gate: &Array<Vector<F, N>>,
    up: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    rows: usize,
    width: usize,
    gate_stride: usize,
    up_stride: usize,
    #[comptime] activation: Activation,
    #[define(F)] _f: StorageType,
) {
    let i = ABSOLUTE_POS_X as usize;
    if i < width {
        let step = (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        for row in range_stepped(ABSOLUTE_POS_Y as usize, rows, step) {
            let x = Vector::<f32, N>::cast_from(gate[row * gate_stride + i]);
            let v = match comptime!(activation) {
                Activation::Silu => x,
                Activation::GeluTanh => x * (Vector::new(GELU_LINEAR) + Vector::new(GELU_CUBIC) * x * x),
            };
            // A vector cannot be negated in CUDA.
            let activated = x / (Vector::new(1.0f32) + (Vector::new(0.0f32) - v).exp());
            let up = Vector::<f32, N>::cast_from(up[row * up_stride + i]);
            out[row * width + i] = Vector::cast_from(activated * up);
        }
    }
}

/// One unit per vector of a row; along y it goes on in steps of as many rows as the launch covers.
#[cube(launch_unchecked)]
fn write_rows_kernel<F: Float, N: Size>(
    rows: &Array<i32>,
    values: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    count: usize,
    width: usize,
    stride: usize,
    #[define(F)] _f: StorageType,
) {
    let i = ABSOLUTE_POS_X as usize;
    if i < width {
        let step = (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        for row in range_stepped(ABSOLUTE_POS_Y as usize, count, step) {
            let at = rows[row] as usize * width + i;
            out[at] = values[row * stride + i];
        }
    }
}

/// Rotates queries and keys.
///
/// # Shapes
/// `q`, `k` and the results: `[T, heads, head_dim]`, each with heads of its own; `cos`, `sin`: f32
/// `[T, turned / 2]`, contiguous, for the first `turned` elements of every head.
pub(super) fn rotate<R: CubeRuntime>(
    x: [CubeTensor<R>; 2],
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
) -> [CubeTensor<R>; 2] {
    let [(q, q_stride), (k, k_stride)] = x.map(rows);
    let client = q.client.clone();
    let (count, dim, half, dtype) = (q.shape()[0], q.shape()[2], cos.shape()[1], q.dtype);
    let lanes = lanes(dtype.size(), &[dim, half, q_stride, k_stride]);
    let ((q_out, q_arg), (k_out, k_arg)) = (output(&q, 0), output(&k, 1));
    let heads = |x: &CubeTensor<R>, stride: usize| {
        let count = x.shape()[1];
        HeadsLaunch::new(count, stride / lanes, count * dim / lanes)
    };
    let (q_heads, k_heads) = (heads(&q, q_stride), heads(&k, k_stride));
    // SAFETY: rows are below `count`, heads below the tensor's own, and of a head's vectors the highest is below
    // `dim / lanes`, as 2 · half ≤ dim; `rows` gave a stride of at least `heads · dim`, so all lie within the
    // buffers. `cos` and `sin` are read below `count · half`. Where a tensor is written in place, each unit reads
    // a pair of vectors before it writes it, and no other unit touches it.
    unsafe {
        rotate_kernel::launch_unchecked::<R>(
            &client,
            spread(count),
            head_units(half / lanes, q.shape()[1].max(k.shape()[1])),
            lanes,
            array(q),
            array(k),
            array(cos),
            array(sin),
            q_arg,
            k_arg,
            q_heads,
            k_heads,
            count,
            half / lanes,
            dim / lanes,
            dtype.into(),
        );
    }
    [q_out, k_out]
}

/// Units for a half of `half` vectors, and for `heads` heads in the fewest equal rounds.
fn head_units(half: usize, heads: usize) -> CubeDim {
    let x = half.clamp(1, UNITS);
    let rounds = heads.div_ceil(UNITS / x).max(1);
    CubeDim::new_2d(x as u32, heads.div_ceil(rounds).max(1) as u32)
}

/// `activation(gate) · up`, written in place of `gate` if nobody else holds that.
///
/// # Shapes
/// `gate`, `up` and the result: `[T, width]`.
pub(super) fn gate_mul<R: CubeRuntime>(
    gate: CubeTensor<R>,
    up: CubeTensor<R>,
    activation: Activation,
) -> CubeTensor<R> {
    let [(gate, gate_stride), (up, up_stride)] = [gate, up].map(rows);
    let client = gate.client.clone();
    let (count, width, dtype) = (gate.shape()[0], gate.shape()[1], gate.dtype);
    let lanes = lanes(dtype.size(), &[width, gate_stride, up_stride]);
    let (cubes, units) = by_vectors(count, width / lanes);
    let (out, out_arg) = output(&gate, 0);
    // SAFETY: a unit reads and writes rows below `count` and of their vectors one below `width / lanes`; the
    // strides are at least `width`, so that all lie within the buffers. In place, it reads before it writes.
    unsafe {
        gate_mul_kernel::launch_unchecked::<R>(
            &client,
            cubes,
            units,
            lanes,
            array(gate),
            array(up),
            out_arg,
            count,
            width / lanes,
            gate_stride / lanes,
            up_stride / lanes,
            activation,
            dtype.into(),
        );
    }
    out
}

/// Writes row `i` of `values` to row `rows[i]` of `into`, in place if nobody else holds that.
///
/// # Shapes
/// `into`: `[S, heads, head_dim]`; `rows`: i32 `[T]`, contiguous; `values`: `[T, heads, head_dim]`.
pub(super) fn write_rows<R: CubeRuntime>(
    into: CubeTensor<R>,
    indices: CubeTensor<R>,
    values: CubeTensor<R>,
) -> CubeTensor<R> {
    let into = into_contiguous(into);
    let into = if into.can_mut() { into } else { into.copy() };
    let (values, stride) = rows(values);
    let client = into.client.clone();
    let (count, dtype) = (values.shape()[0], into.dtype);
    let width = into.shape()[1] * into.shape()[2];
    let lanes = lanes(dtype.size(), &[width, stride]);
    let (cubes, units) = by_vectors(count, width / lanes);
    // SAFETY: a unit reads rows below `count` and of their vectors one below `width / lanes`, with a stride of at least
    // `width`; the caller promises distinct rows within `into`, so that each vector is written by one unit.
    unsafe {
        write_rows_kernel::launch_unchecked::<R>(
            &client,
            cubes,
            units,
            lanes,
            array(indices),
            array(values),
            array(into.clone()),
            count,
            width / lanes,
            stride / lanes,
            dtype.into(),
        );
    }
    into
}
