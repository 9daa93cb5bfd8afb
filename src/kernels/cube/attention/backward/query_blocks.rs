//! Gradients of blocks of queries, and the sums of each query that those of the keys need.

use cubecl::prelude::*;

use super::super::queries::{LOWEST, QueryBlock, bounded};
use super::super::tiled::{QueryTile, SIDE, hull, load, load_queries};
use super::tiles::{SUMS, accumulate, products, share, shared_bytes, slope, store, zeros};

/// The running numbers of a query: the highest score, and the sums of the weights relative to it, alone and times `dp`.
const RUNNING: usize = 3;

/// Floats of shared memory for each query: the scores of a block, or the running numbers of the units of its row.
fn floats(tile: QueryTile) -> usize {
    (tile.block() + 1).max(SIDE * RUNNING)
}

/// Bytes of shared memory of one cube, for elements of `element` bytes.
pub(super) fn bytes(tile: QueryTile, element: usize) -> usize {
    shared_bytes(tile, 3, element, floats(tile))
}

/// One cube per key head and block of queries. It goes over the keys twice: for the sums, then for the gradient. Values and
/// then keys are brought into the same shared memory.
#[cube(launch)]
pub(super) fn query_gradients<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    dy: &Array<F>,
    bounds: &Array<i32>,
    sums: &mut Array<f32>,
    dq: &mut Array<F>,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] tile: QueryTile,
    #[define(F)] _f: StorageType,
) {
    let block = comptime!(tile.block());
    let n = comptime!(tile.queries);
    let kv_head = CUBE_POS_Y as usize;
    let first = CUBE_POS_X as usize * block;
    let place = QueryBlock { heads, kv_heads, kv_head, first, count: rows * (heads / kv_heads) };
    let mut queries = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut gradients = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut keys = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut shared = SharedMemory::<f32>::new(comptime!(tile.block() * floats(tile)));
    load_queries(q, &mut queries, &place, tile);
    load_queries(dy, &mut gradients, &place, tile);

    let mut running = Array::<f32>::new(comptime!(RUNNING * tile.queries));
    #[unroll]
    for i in 0..n {
        running[RUNNING * i] = LOWEST;
        running[RUNNING * i + 1] = 0.0f32;
        running[RUNNING * i + 2] = 0.0f32;
    }
    // The prefix and then the rows' own keys.
    #[unroll]
    for range in 0..2usize {
        let (begin, end) = hull(bounds, &place, range, block);
        for start in range_stepped(begin, end, block) {
            load(v, &mut keys, start, end, &place, tile);
            sync_cube();
            let dp = products(&gradients, &keys, tile);
            sync_cube();
            load(k, &mut keys, start, end, &place, tile);
            sync_cube();
            let scores = products(&queries, &keys, tile);
            sync_cube();
            run(&scores, &dp, &mut running, bounds, start, scale, cap, &place, range, tile);
        }
    }
    merge(&mut running, &mut shared, tile);

    let mut sum_k = zeros(tile);
    #[unroll]
    for range in 0..2usize {
        let (begin, end) = hull(bounds, &place, range, block);
        for start in range_stepped(begin, end, block) {
            load(v, &mut keys, start, end, &place, tile);
            sync_cube();
            let dp = products(&gradients, &keys, tile);
            sync_cube();
            load(k, &mut keys, start, end, &place, tile);
            sync_cube();
            let mut scores = products(&queries, &keys, tile);
            differentiate(&mut scores, &dp, &running, bounds, start, scale, cap, &place, range, tile);
            share(&scores, &mut shared, tile);
            sync_cube();
            accumulate(&shared, &keys, &mut sum_k, tile);
            sync_cube();
        }
    }
    #[unroll]
    for i in 0..n {
        let query = place.first + UNIT_POS_Y as usize * n + i;
        if query < place.count {
            let head = place.head(query);
            if UNIT_POS_X == 0 {
                sums[SUMS * head] = running[RUNNING * i];
                sums[SUMS * head + 1] = running[RUNNING * i + 1];
            }
            store(&sum_k, i, dq, head, tile);
        }
    }
}

/// The range of keys that the unit's query `i` sees; empty past the last query.
#[cube]
fn seen(
    bounds: &Array<i32>,
    place: &QueryBlock,
    #[comptime] i: usize,
    #[comptime] range: usize,
    #[comptime] tile: QueryTile,
) -> (usize, usize) {
    let query = place.first + UNIT_POS_Y as usize * comptime!(tile.queries) + i;
    let mut from = 0usize;
    let mut to = 0usize;
    if query < place.count {
        from = bounds[4 * place.row(query) + 2 * range] as usize;
        to = bounds[4 * place.row(query) + 2 * range + 1] as usize;
    }
    (from, to)
}

/// Adds the unit's keys to its running numbers.
#[cube]
fn run(
    scores: &Array<f32>,
    dp: &Array<f32>,
    running: &mut Array<f32>,
    bounds: &Array<i32>,
    start: usize,
    scale: f32,
    cap: f32,
    place: &QueryBlock,
    #[comptime] range: usize,
    #[comptime] tile: QueryTile,
) {
    let n = comptime!(tile.queries);
    #[unroll]
    for i in 0..n {
        let (from, to) = seen(bounds, place, i, range, tile);
        #[unroll]
        for j in 0..n {
            let key = start + UNIT_POS_X as usize + j * SIDE;
            if key >= from && key < to {
                let score = bounded(scores[i * n + j] * scale, cap, comptime!(tile.capped));
                let highest = max(running[RUNNING * i], score);
                let shrink = (running[RUNNING * i] - highest).exp();
                let weight = (score - highest).exp();
                running[RUNNING * i] = highest;
                running[RUNNING * i + 1] = running[RUNNING * i + 1] * shrink + weight;
                running[RUNNING * i + 2] = running[RUNNING * i + 2] * shrink + weight * dp[i * n + j];
            }
        }
    }
}

/// Merges the running numbers of the units of a row into the sums of its queries: the logarithm, then the total.
#[cube]
fn merge(running: &mut Array<f32>, shared: &mut SharedMemory<f32>, #[comptime] tile: QueryTile) {
    let n = comptime!(tile.queries);
    #[unroll]
    for i in 0..n {
        let row = (UNIT_POS_Y as usize * n + i) * comptime!(floats(tile));
        #[unroll]
        for number in 0..RUNNING {
            shared[row + UNIT_POS_X as usize * RUNNING + number] = running[RUNNING * i + number];
        }
    }
    sync_cube();
    #[unroll]
    for i in 0..n {
        let row = (UNIT_POS_Y as usize * n + i) * comptime!(floats(tile));
        let mut highest = LOWEST.runtime();
        for unit in 0..SIDE {
            highest = max(highest, shared[row + unit * RUNNING]);
        }
        let mut sum = 0.0f32;
        let mut total = 0.0f32;
        for unit in 0..SIDE {
            let shrink = (shared[row + unit * RUNNING] - highest).exp();
            sum += shared[row + unit * RUNNING + 1] * shrink;
            total += shared[row + unit * RUNNING + 2] * shrink;
        }
        running[RUNNING * i] = highest + sum.ln();
        running[RUNNING * i + 1] = total / sum;
    }
    sync_cube();
}

/// Turns products of queries and keys into their gradients; 0 where a row does not see a key.
#[cube]
fn differentiate(
    scores: &mut Array<f32>,
    dp: &Array<f32>,
    sums: &Array<f32>,
    bounds: &Array<i32>,
    start: usize,
    scale: f32,
    cap: f32,
    place: &QueryBlock,
    #[comptime] range: usize,
    #[comptime] tile: QueryTile,
) {
    let n = comptime!(tile.queries);
    #[unroll]
    for i in 0..n {
        let (from, to) = seen(bounds, place, i, range, tile);
        #[unroll]
        for j in 0..n {
            let key = start + UNIT_POS_X as usize + j * SIDE;
            let mut ds = 0.0f32;
            if key >= from && key < to {
                let score = bounded(scores[i * n + j] * scale, cap, comptime!(tile.capped));
                let p = (score - sums[RUNNING * i]).exp();
                let slope = slope(score, cap, comptime!(tile.capped));
                ds = p * (dp[i * n + j] - sums[RUNNING * i + 1]) * slope * scale;
            }
            scores[i * n + j] = ds;
        }
    }
}
