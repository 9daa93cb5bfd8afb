//! Products of the rows of a warp with a tile.

use cubecl::prelude::*;

use super::fragments::{Pair, Scratch, load_left, load_rights, load_rights_of_rows, multiply};
use super::tile::{CoreTile, ROWS, WARP};

#[cube]
pub(super) fn clear(sums: &mut Array<Pair<f32>>, #[comptime] count: usize, #[comptime] tile: CoreTile) {
    let cores = comptime!(tile.cores);
    #[unroll(cores)]
    for i in 0..count {
        sums[i] = Vector::new(0.0f32);
    }
}

/// `scores = left · rightᵀ` for the warp's 16 rows of `left`, queries most often, and `tile.keys` rows of `right`.
#[cube]
pub(super) fn score<F: Float, N: Size>(
    left: &SharedMemory<Vector<F, N>>,
    right: &SharedMemory<Vector<F, N>>,
    scores: &mut Array<Pair<f32>>,
    scratch: &mut Scratch,
    #[comptime] tile: CoreTile,
) {
    clear(scores, comptime!(2 * tile.keys / 8), tile);
    let cores = comptime!(tile.cores);
    let row = UNIT_POS as usize / WARP * ROWS;
    #[unroll(cores)]
    for step in 0..comptime!(tile.head_dim / 16) {
        let left = load_left::<F, N>(left, row, step * 16, tile);
        #[unroll(cores)]
        for i in 0..comptime!(tile.keys / 16) {
            let rights = load_rights_of_rows::<F, N>(right, i * 16, step * 16, tile);
            multiply::<F>(&left, &rights, 0usize, scores, 2 * i, scratch, tile);
            multiply::<F>(&left, &rights, 1usize, scores, 2 * i + 1, scratch, tile);
        }
    }
}

/// `sums += weights · values`. The sums of one product lie in the registers as the left side of the next, except for
/// their type.
#[cube]
pub(super) fn accumulate<F: Float, N: Size>(
    weights: &Array<Pair<f32>>,
    values: &SharedMemory<Vector<F, N>>,
    sums: &mut Array<Pair<f32>>,
    scratch: &mut Scratch,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    #[unroll(cores)]
    for step in 0..comptime!(tile.keys / 16) {
        let mut left = Array::<Pair<F>>::new(4usize);
        #[unroll]
        for i in 0..4usize {
            left[i] = Vector::cast_from(weights[4 * step + i]);
        }
        #[unroll(cores)]
        for i in 0..comptime!(tile.head_dim / 16) {
            let rights = load_rights::<F, N>(values, step * 16, i * 16, tile);
            multiply::<F>(&left, &rights, 0usize, sums, 2 * i, scratch, tile);
            multiply::<F>(&left, &rights, 1usize, sums, 2 * i + 1, scratch, tile);
        }
    }
}
