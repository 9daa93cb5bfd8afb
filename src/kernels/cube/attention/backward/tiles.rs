//! Products of tiles in shared memory, and what both kernels compute of a score. Unit `(x, y)` of a cube holds the rows
//! `y · tile.queries ..` of one side and every `SIDE`-th row or column of the other from `x` on.

use cubecl::prelude::*;

use super::super::tiled::{QueryTile, SIDE};

/// Numbers of each query: the logarithm of the sum of the exponentials of its scores, and its `total`.
pub(super) const SUMS: usize = 2;

/// Bytes of shared memory of one cube with `tiles` tiles of elements of `element` bytes, and `floats` for each row.
pub(super) fn shared_bytes(tile: QueryTile, tiles: usize, element: usize, floats: usize) -> usize {
    tile.block() * (tiles * tile.stride() * element + 4 * floats)
}

/// Products of the unit's rows of `left` with its rows of `right`; those of one row of `left` are neighbours.
#[cube]
pub(super) fn products<F: Float>(
    left: &SharedMemory<F>,
    right: &SharedMemory<F>,
    #[comptime] tile: QueryTile,
) -> Array<f32> {
    let (n, stride) = comptime!((tile.queries, tile.stride()));
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize * n);
    let mut products = Array::<f32>::new(comptime!(tile.queries * tile.queries));
    #[unroll]
    for i in 0..comptime!(tile.queries * tile.queries) {
        products[i] = 0.0f32;
    }
    for d in 0..comptime!(tile.head_dim) {
        #[unroll]
        for j in 0..n {
            let right = f32::cast_from(right[(x + j * SIDE) * stride + d]);
            #[unroll]
            for i in 0..n {
                products[i * n + j] += f32::cast_from(left[(y + i) * stride + d]) * right;
            }
        }
    }
    products
}

/// Writes a number for each pair of rows to shared memory.
#[cube]
pub(super) fn share(values: &Array<f32>, to: &mut SharedMemory<f32>, #[comptime] tile: QueryTile) {
    let n = comptime!(tile.queries);
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize * n);
    #[unroll]
    for i in 0..n {
        #[unroll]
        for j in 0..n {
            to[(y + i) * comptime!(tile.block() + 1) + x + j * SIDE] = values[i * n + j];
        }
    }
}

/// `sums += factors · rows`: the unit's rows, and every `SIDE`-th column.
#[cube]
pub(super) fn accumulate<F: Float>(
    factors: &SharedMemory<f32>,
    rows: &SharedMemory<F>,
    sums: &mut Array<f32>,
    #[comptime] tile: QueryTile,
) {
    let (n, columns) = comptime!((tile.queries, tile.columns()));
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize * n);
    for row in 0..comptime!(tile.block()) {
        #[unroll]
        for j in 0..columns {
            let value = f32::cast_from(rows[row * comptime!(tile.stride()) + x + j * SIDE]);
            #[unroll]
            for i in 0..n {
                sums[i * columns + j] += factors[(y + i) * comptime!(tile.block() + 1) + row] * value;
            }
        }
    }
}

/// The sums that [`accumulate`] adds to.
#[cube]
pub(super) fn zeros(#[comptime] tile: QueryTile) -> Array<f32> {
    let mut sums = Array::<f32>::new(comptime!(tile.queries * tile.columns()));
    #[unroll]
    for i in 0..comptime!(tile.queries * tile.columns()) {
        sums[i] = 0.0f32;
    }
    sums
}

/// Writes row `i` of a unit's sums to row `head` of a tensor.
#[cube]
pub(super) fn store<F: Float>(
    sums: &Array<f32>,
    #[comptime] i: usize,
    out: &mut Array<F>,
    head: usize,
    #[comptime] tile: QueryTile,
) {
    let columns = comptime!(tile.columns());
    #[unroll]
    for j in 0..columns {
        let d = UNIT_POS_X as usize + j * SIDE;
        if d < comptime!(tile.head_dim) {
            out[head * comptime!(tile.head_dim) + d] = F::cast_from(sums[i * columns + j]);
        }
    }
}

/// Derivative of a score with respect to the product of query and key, without `scale`.
#[cube]
pub(super) fn slope(score: f32, cap: f32, #[comptime] capped: bool) -> f32 {
    if comptime!(capped) {
        let share = score / cap;
        1.0f32 - share * share
    } else {
        1.0f32.runtime()
    }
}
