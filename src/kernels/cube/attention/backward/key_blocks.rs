//! Gradients of blocks of keys and values.

use cubecl::prelude::*;

use super::super::queries::{QueryBlock, bounded};
use super::super::tiled::{QueryTile, SIDE, load, load_queries};
use super::tiles::{SUMS, accumulate, products, share, shared_bytes, slope, store, zeros};

/// Bytes of shared memory of one cube, for elements of `element` bytes.
pub(super) fn bytes(tile: QueryTile, element: usize) -> usize {
    shared_bytes(tile, 4, element, tile.block() + 1)
}

/// One cube per key head and block of keys, over the queries of all heads that read the key head. Probabilities and then
/// gradients of products go through the same shared memory.
#[cube(launch)]
pub(super) fn key_gradients<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    dy: &Array<F>,
    bounds: &Array<i32>,
    hulls: &Array<i32>,
    sums: &Array<f32>,
    dk: &mut Array<F>,
    dv: &mut Array<F>,
    key_rows: usize,
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
    let group = heads / kv_heads;
    let begin = hulls[2 * CUBE_POS_X as usize] as usize * group;
    let count = hulls[2 * CUBE_POS_X as usize + 1] as usize * group;
    let mut keys = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut values = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut queries = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut gradients = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut factors = SharedMemory::<f32>::new(comptime!(tile.block() * (tile.block() + 1)));
    let place = QueryBlock { heads, kv_heads, kv_head, first: begin, count };
    load(k, &mut keys, first, key_rows, &place, tile);
    load(v, &mut values, first, key_rows, &place, tile);

    let mut sum_q = zeros(tile);
    let mut sum_dy = zeros(tile);
    for start in range_stepped(begin, count, block) {
        let place = QueryBlock { heads, kv_heads, kv_head, first: start, count };
        load_queries(q, &mut queries, &place, tile);
        load_queries(dy, &mut gradients, &place, tile);
        sync_cube();
        let mut p = products(&keys, &queries, tile);
        let mut ds = products(&values, &gradients, tile);
        differentiate(&mut p, &mut ds, bounds, sums, first, scale, cap, &place, tile);
        share(&p, &mut factors, tile);
        sync_cube();
        accumulate(&factors, &gradients, &mut sum_dy, tile);
        sync_cube();
        share(&ds, &mut factors, tile);
        sync_cube();
        accumulate(&factors, &queries, &mut sum_q, tile);
        sync_cube();
    }
    #[unroll]
    for i in 0..n {
        let key = first + UNIT_POS_Y as usize * n + i;
        if key < key_rows {
            store(&sum_q, i, dk, key * kv_heads + kv_head, tile);
            store(&sum_dy, i, dv, key * kv_heads + kv_head, tile);
        }
    }
}

/// Turns products of keys and queries into probabilities, and products of values and gradients into the gradients of the
/// former; 0 where a row does not see a key.
#[cube]
fn differentiate(
    p: &mut Array<f32>,
    ds: &mut Array<f32>,
    bounds: &Array<i32>,
    sums: &Array<f32>,
    first: usize,
    scale: f32,
    cap: f32,
    place: &QueryBlock,
    #[comptime] tile: QueryTile,
) {
    let n = comptime!(tile.queries);
    #[unroll]
    for j in 0..n {
        let query = place.first + UNIT_POS_X as usize + j * SIDE;
        let mut seen = Array::<i32>::new(4usize);
        let mut log_sum = 0.0f32;
        let mut total = 0.0f32;
        #[unroll]
        for bound in 0..4usize {
            seen[bound] = 0i32;
        }
        if query < place.count {
            #[unroll]
            for bound in 0..4usize {
                seen[bound] = bounds[4 * place.row(query) + bound];
            }
            log_sum = sums[SUMS * place.head(query)];
            total = sums[SUMS * place.head(query) + 1];
        }
        #[unroll]
        for i in 0..n {
            let key = (first + UNIT_POS_Y as usize * n + i) as i32;
            let mut weight = 0.0f32;
            let mut gradient = 0.0f32;
            if (key >= seen[0] && key < seen[1]) || (key >= seen[2] && key < seen[3]) {
                let score = bounded(p[i * n + j] * scale, cap, comptime!(tile.capped));
                weight = (score - log_sum).exp();
                let slope = slope(score, cap, comptime!(tile.capped));
                gradient = weight * (ds[i * n + j] - total) * slope * scale;
            }
            p[i * n + j] = weight;
            ds[i * n + j] = gradient;
        }
    }
}
