//! The gradient of the logarithms of scales from that of the weights: products of both, summed over each group.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::buffers::array;
use super::launch::spread;
use super::packed::{CubeWeight, Packed, group_columns, scaled_weights};
use super::rows::UNITS;
use super::share::{Share, plane, total};

/// `out[o, g] = Σ_j W[o, j] · products[o, j]` over the columns j of group g; 0 where the scale is 0, since such a group is
/// constant. Neighbouring units read neighbouring vectors of a group, and unpack them there.
#[cube(launch_unchecked)]
fn group_sums<N: Size>(
    weight: &Packed,
    products: &Array<Vector<f32, N>>,
    out: &mut Array<f32>,
    first_row: usize,
    rows: usize,
    #[comptime] share: Share,
) {
    let lanes = N::value().comptime();
    let unit = UNIT_POS as usize % comptime!(share.units);
    let place = CUBE_POS * comptime!(share.rows) + UNIT_POS as usize / comptime!(share.units);
    let inside = place < rows * weight.groups;
    let place = select(inside, place, 0);
    let (row, group) = (place / weight.groups, place % weight.groups);
    let (begin, end) = group_columns(weight, group);
    let index = (first_row + row) * weight.groups + group;
    let scale = weight.scales.read(index);
    let mut sums = Vector::<f32, N>::empty().fill(0.0f32);
    for n in 0..comptime!(share.vectors) {
        let column = begin + (unit + n * comptime!(share.units)) * lanes;
        if column < end {
            let weights = scaled_weights::<N>(weight, scale, first_row + row, column);
            sums += weights * products[(row * weight.in_features + column) / lanes];
        }
    }
    let sum = total(sums, share);
    if inside && unit == 0 {
        out[index] = select(scale == 0.0f32, 0.0f32, sum);
    }
}

/// Sums up the groups of some rows of a weight.
///
/// # Shapes
/// `products`: f32 `[rows, in_features]`, for the weight's rows from `first_row` on; `out`: f32
/// `[out_features × groups]`, of which those of these rows are written; contiguous.
pub(super) fn launch<R: CubeRuntime>(
    weight: CubeWeight<R>,
    products: CubeTensor<R>,
    first_row: usize,
    out: CubeTensor<R>,
) {
    let client = out.client.clone();
    let rows = products.shape().num_elements() / weight.in_features;
    debug_assert!(first_row + rows <= weight.out_features);
    let (lanes, groups) = (weight.lanes(size_of::<f32>()), weight.groups());
    let share = Share::of_short_rows(weight.group_size.div_ceil(lanes), plane(&client));
    // SAFETY: a row is below `rows` and a column below `in_features` wherever a unit reads or writes: past the last
    // group `place` is 0, and `group_columns` ends with the row. So it stays within the `rows · in_features` products, and
    // within the scales and `out`, which hold `groups` numbers for each row of the weight. Codes, bytes and tables are
    // read where `packed::scaled_weights` reads them for a row and column that exist.
    unsafe {
        group_sums::launch_unchecked::<R>(
            &client,
            spread((rows * groups).div_ceil(share.rows)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            weight.into_launch(),
            array(products),
            array(out),
            first_row,
            rows,
            share,
        );
    }
}
