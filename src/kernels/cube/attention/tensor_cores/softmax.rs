//! The running softmax of a warp's 16 queries. Four lanes share a row, and each lane has two rows.

use cubecl::prelude::*;

use super::super::queries::{LOWEST, QueryBlock, bounded};
use super::fragments::{Pair, Scratch};
use super::tile::{CoreTile, own_query};

/// First value of the highest score: below every visible score, and so far above [`LOWEST`] that an invisible key
/// weighs 0.
const START: f32 = -1.0e38;

/// The online softmax of the two rows that a lane holds.
#[derive(CubeType)]
pub(super) struct Softmax {
    /// Bounds of the two rows; empty for rows beyond the last.
    pub bounds: Array<Vector<i32, Const<4>>>,
    /// The highest score so far, the same on the four lanes.
    pub highest: Array<f32>,
    /// The sum of this lane's weights.
    pub sums: Array<f32>,
}

#[cube]
impl Softmax {
    pub fn new(bounds: &Array<Vector<i32, Const<4>>>, place: &QueryBlock) -> Softmax {
        let mut own = Array::<Vector<i32, Const<4>>>::new(2usize);
        let mut highest = Array::<f32>::new(2usize);
        let mut sums = Array::<f32>::new(2usize);
        #[unroll]
        for i in 0..2usize {
            let query = own_query(place, i);
            let mut row = Vector::new(0i32);
            if query < place.count {
                row = bounds[place.row(query)];
            }
            own[i] = row;
            highest[i] = START;
            sums[i] = 0.0f32;
        }
        Softmax { bounds: own, highest, sums }
    }

    /// The sum of all weights of a row.
    pub fn total(&self, #[comptime] i: usize, scratch: &mut Scratch, #[comptime] tile: CoreTile) -> f32 {
        sum_of_row(self.sums[i], scratch, tile)
    }

    /// The range of keys that a row sees.
    pub fn seen(&self, #[comptime] i: usize, in_prefix: bool) -> (usize, usize) {
        let bounds = self.bounds[i];
        (select(in_prefix, bounds[0], bounds[2]) as usize, select(in_prefix, bounds[1], bounds[3]) as usize)
    }
}

/// The sum of the values of the four lanes of a row.
#[cube]
pub(super) fn sum_of_row(value: f32, scratch: &mut Scratch, #[comptime] tile: CoreTile) -> f32 {
    let half = value + scratch.other(value, 1u32, tile);
    half + scratch.other(half, 2u32, tile)
}

/// The highest of the values of the four lanes of a row.
#[cube]
pub(super) fn highest_of_row(value: f32, scratch: &mut Scratch, #[comptime] tile: CoreTile) -> f32 {
    let half = max(value, scratch.other(value, 1u32, tile));
    max(half, scratch.other(half, 2u32, tile))
}

/// Turns products into weights relative to the highest score so far, and rescales the sums of values to it.
#[cube]
pub(super) fn weigh(
    scores: &mut Array<Pair<f32>>,
    sums: &mut Array<Pair<f32>>,
    softmax: &mut Softmax,
    start: usize,
    in_prefix: bool,
    scale: f32,
    cap: f32,
    scratch: &mut Scratch,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    let columns = comptime!(tile.head_dim / 8);
    #[unroll]
    for i in 0..2usize {
        let (from, to) = softmax.seen(i, in_prefix);
        let last = softmax.highest[i];
        scale_and_cap(scores, i, scale, cap, tile);
        if start < from || start + comptime!(tile.keys) > to {
            mask(scores, i, start, from, to, tile);
        }
        let highest = highest_of_row(highest_score(scores, i, last, tile), scratch, tile);
        let shrink = (last - highest).exp();
        softmax.highest[i] = highest;
        softmax.sums[i] = softmax.sums[i] * shrink + exponentials(scores, i, highest, tile);
        // The highest score seldom changes once a few tiles are through.
        if shrink < 1.0f32 {
            #[unroll(cores)]
            for j in 0..columns {
                sums[2 * j + i] = sums[2 * j + i] * Vector::new(shrink);
            }
        }
    }
}

/// Turns the products of a row into scores.
#[cube]
pub(super) fn scale_and_cap(
    scores: &mut Array<Pair<f32>>,
    #[comptime] i: usize,
    scale: f32,
    cap: f32,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    #[unroll(cores)]
    for j in 0..comptime!(tile.keys / 8) {
        let mut pair = scores[2 * j + i];
        #[unroll]
        for c in 0..2usize {
            pair[c] = bounded(pair[c] * scale, cap, comptime!(tile.capped));
        }
        scores[2 * j + i] = pair;
    }
}

/// Sets scores to `LOWEST` where a row does not see a key.
#[cube]
pub(super) fn mask(
    scores: &mut Array<Pair<f32>>,
    #[comptime] i: usize,
    start: usize,
    from: usize,
    to: usize,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    #[unroll(cores)]
    for j in 0..comptime!(tile.keys / 8) {
        let mut pair = scores[2 * j + i];
        #[unroll]
        for c in 0..2usize {
            let key = start + 8 * j + UNIT_POS as usize % 4 * 2 + c;
            pair[c] = select(key >= from && key < to, pair[c], LOWEST);
        }
        scores[2 * j + i] = pair;
    }
}

/// The highest of this lane's scores and `last`.
#[cube]
pub(super) fn highest_score(
    scores: &Array<Pair<f32>>,
    #[comptime] i: usize,
    last: f32,
    #[comptime] tile: CoreTile,
) -> f32 {
    let cores = comptime!(tile.cores);
    let mut highest = last;
    #[unroll(cores)]
    for j in 0..comptime!(tile.keys / 8) {
        let pair = scores[2 * j + i];
        highest = max(highest, max(pair[0], pair[1]));
    }
    highest
}

/// Turns scores into weights and returns their sum.
#[cube]
fn exponentials(
    scores: &mut Array<Pair<f32>>,
    #[comptime] i: usize,
    highest: f32,
    #[comptime] tile: CoreTile,
) -> f32 {
    let cores = comptime!(tile.cores);
    let mut sum = 0.0f32;
    #[unroll(cores)]
    for j in 0..comptime!(tile.keys / 8) {
        let mut pair = scores[2 * j + i];
        #[unroll]
        for c in 0..2usize {
            let weight = (pair[c] - highest).exp();
            sum += weight;
            pair[c] = weight;
        }
        scores[2 * j + i] = pair;
    }
    sum
}
