//! Packed codes → a dense weight in the compute dtype.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::packed::{Buffers, Packed, weights};
use super::{CUBE, cubes};

/// One unit per vector: neighbouring units read neighbouring words and write neighbouring vectors.
#[cube(launch)]
fn unpack<F: Float, N: Size>(
    packed: &Packed,
    out: &mut Array<Vector<F, N>>,
    units: usize,
    #[define(F)] _f: StorageType,
) {
    let unit = ABSOLUTE_POS;
    if unit >= units {
        terminate!();
    }
    let first = unit * N::value().comptime();
    let (row, column) = (first / packed.in_features, first % packed.in_features);
    let (part, row) = (row / packed.out_features, row % packed.out_features);
    out[unit] = Vector::cast_from(weights::<N>(packed, part, row, column));
}

/// # Shapes
/// `out`: float `[parts, out_features, in_features]`, contiguous.
pub(super) fn launch<R: CubeRuntime>(packed: Buffers<R>, out: CubeTensor<R>) {
    let client = out.client.clone();
    let lanes = packed.lanes(out.dtype.size());
    let units = out.shape().num_elements() / lanes;
    let dtype = out.dtype.into();
    unpack::launch::<R>(
        &client,
        cubes(units),
        CubeDim::new_1d(CUBE),
        lanes,
        packed.into_launch(),
        out.binding().into_array_arg(),
        units,
        dtype,
    );
}
