//! Norm, rotation and gate. All arithmetic is f32 inside, whatever the type of the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{CUBE, cubes};
use crate::kernels::{GELU_CUBIC, GELU_LINEAR, Gate};

/// One cube per row: each unit sums the squares of every `CUBE`-th element, then all sums are added up
/// in shared memory.
#[cube(launch)]
fn rms_norm_kernel<F: Float>(
    x: &Array<F>,
    weight: &Array<f32>,
    out: &mut Array<F>,
    rows: usize,
    hidden: usize,
    eps: f32,
    #[comptime] units: usize,
    #[define(F)] _f: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut sums = SharedMemory::<f32>::new(units);
    let mut sum = 0.0f32;
    for i in range_stepped(unit, hidden, units) {
        let value = f32::cast_from(x[row * hidden + i]);
        sum += value * value;
    }
    sums[unit] = sum;
    sync_cube();
    let mut total = 0.0f32;
    for i in 0..units {
        total += sums[i];
    }
    let scale = 1.0f32 / (total / f32::cast_from(hidden as u32) + eps).sqrt();
    for i in range_stepped(unit, hidden, units) {
        let at = row * hidden + i;
        out[at] = F::cast_from(f32::cast_from(x[at]) * scale * weight[i]);
    }
}

/// One unit per pair of a head's two halves.
#[cube(launch)]
fn rotate_kernel<F: Float>(
    x: &Array<F>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    out: &mut Array<F>,
    units: usize,
    heads: usize,
    half: usize,
    #[define(F)] _f: StorageType,
) {
    let unit = ABSOLUTE_POS;
    if unit >= units {
        terminate!();
    }
    let i = unit % half;
    let head = unit / half;
    let angle = head / heads * half + i;
    let low = head * half * 2 + i;
    let high = low + half;
    let a = f32::cast_from(x[low]);
    let b = f32::cast_from(x[high]);
    out[low] = F::cast_from(a * cos[angle] - b * sin[angle]);
    out[high] = F::cast_from(b * cos[angle] + a * sin[angle]);
}

#[cube(launch)]
fn gate_mul_kernel<F: Float>(
    gate: &Array<F>,
    up: &Array<F>,
    out: &mut Array<F>,
    units: usize,
    #[comptime] activation: Gate,
    #[define(F)] _f: StorageType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let x = f32::cast_from(gate[ABSOLUTE_POS]);
    let v = match comptime!(activation) {
        Gate::Silu => x,
        Gate::GeluTanh => x * (GELU_LINEAR + GELU_CUBIC * x * x),
    };
    let activated = x / (1.0f32 + (-v).exp());
    out[ABSOLUTE_POS] = F::cast_from(activated * f32::cast_from(up[ABSOLUTE_POS]));
}

/// # Shapes
/// `x`, `out`: `[T, hidden]`; `weight`: f32 `[hidden]`; all contiguous.
pub(super) fn rms_norm<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    eps: f32,
    out: CubeTensor<R>,
) {
    let client = x.client.clone();
    let (rows, hidden, dtype) = (x.shape()[0], x.shape()[1], x.dtype.into());
    // `cubes` counts units: one cube per row.
    rms_norm_kernel::launch::<R>(
        &client,
        cubes(rows * CUBE as usize),
        CubeDim::new_1d(CUBE),
        x.binding().into_array_arg(),
        weight.binding().into_array_arg(),
        out.binding().into_array_arg(),
        rows,
        hidden,
        eps,
        CUBE as usize,
        dtype,
    );
}

/// # Shapes
/// `x`, `out`: `[T, heads, head_dim]`; `cos`, `sin`: f32 `[T, head_dim / 2]`; all contiguous.
pub(super) fn rotate<R: CubeRuntime>(
    x: CubeTensor<R>,
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
    out: CubeTensor<R>,
) {
    let client = x.client.clone();
    let (units, dtype) = (x.shape().num_elements() / 2, x.dtype.into());
    let (heads, half) = (x.shape()[1], x.shape()[2] / 2);
    rotate_kernel::launch::<R>(
        &client,
        cubes(units),
        CubeDim::new_1d(CUBE),
        x.binding().into_array_arg(),
        cos.binding().into_array_arg(),
        sin.binding().into_array_arg(),
        out.binding().into_array_arg(),
        units,
        heads,
        half,
        dtype,
    );
}

/// # Shapes
/// `gate`, `up`, `out`: one shape, contiguous.
pub(super) fn gate_mul<R: CubeRuntime>(
    gate: CubeTensor<R>,
    up: CubeTensor<R>,
    activation: Gate,
    out: CubeTensor<R>,
) {
    let client = gate.client.clone();
    let (units, dtype) = (gate.shape().num_elements(), gate.dtype.into());
    gate_mul_kernel::launch::<R>(
        &client,
        cubes(units),
        CubeDim::new_1d(CUBE),
        gate.binding().into_array_arg(),
        up.binding().into_array_arg(),
        out.binding().into_array_arg(),
        units,
        activation,
        dtype,
    );
}
