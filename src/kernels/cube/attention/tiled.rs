//! Attention a block of queries and a block of keys at a time.

use cubecl::prelude::*;

use super::queries::{LOWEST, QueryBlock, bounded};

/// A cube has `SIDE × SIDE` units.
pub(super) const SIDE: usize = 8;

/// Sizes and features that a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct QueryTile {
    /// Queries, and keys, of one unit.
    pub queries: usize,
    pub head_dim: usize,
    /// Whether scores are capped.
    pub capped: bool,
}

impl QueryTile {
    /// Queries of one cube, and keys at a time.
    pub fn block(self) -> usize {
        SIDE * self.queries
    }

    /// Columns of the result that one unit sums up.
    pub fn columns(self) -> usize {
        self.head_dim.div_ceil(SIDE)
    }

    /// Stride of the rows in shared memory: one more than their columns, so that the keys of neighbouring units lie in
    /// different banks.
    pub fn stride(self) -> usize {
        self.columns() * SIDE + 1
    }

    /// Bytes of shared memory of one cube, for elements of `element` bytes.
    pub fn shared_bytes(self, element: usize) -> usize {
        2 * self.block() * self.stride() * element + 4 * self.block() * (self.block() + 4)
    }
}

/// One cube per key head and block of queries. Keys and then values are brought into the same shared memory;
/// unit `(x, y)` holds the queries `y · tile.queries ..` and every `SIDE`-th key or column from `x` on.
#[cube(launch)]
pub(super) fn attention<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    bounds: &Array<i32>,
    out: &mut Array<F>,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] tile: QueryTile,
    #[define(F)] _f: StorageType,
) {
    let block = comptime!(tile.block());
    let kv_head = CUBE_POS_Y as usize;
    let first = CUBE_POS_X as usize * block;
    let place = QueryBlock { heads, kv_heads, kv_head, first, count: rows * (heads / kv_heads) };
    let mut queries = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut keys = SharedMemory::<F>::new(comptime!(tile.block() * tile.stride()));
    let mut scores = SharedMemory::<f32>::new(comptime!(tile.block() * (tile.block() + 1)));
    let mut running = SharedMemory::<f32>::new(comptime!(3 * tile.block()));
    let mut sum_v = Array::<f32>::new(comptime!(tile.queries * tile.columns()));
    load_queries(q, &mut queries, &place, tile);
    reset(&mut running, &mut sum_v, tile);

    // The prefix and then the rows' own keys.
    #[unroll]
    for range in 0..2usize {
        let (begin, end) = hull(bounds, &place, range, block);
        for start in range_stepped(begin, end, block) {
            load(k, &mut keys, start, end, &place, tile);
            sync_cube();
            score(&queries, &keys, &mut scores, bounds, start, scale, cap, &place, range, tile);
            sync_cube();
            soften(&mut scores, &mut running, block);
            load(v, &mut keys, start, end, &place, tile);
            sync_cube();
            accumulate(&scores, &keys, &running, &mut sum_v, tile);
            sync_cube();
        }
    }
    store(&sum_v, &running, out, &place, tile);
}

#[cube]
pub(super) fn load_queries<F: Float>(
    q: &Array<F>,
    queries: &mut SharedMemory<F>,
    place: &QueryBlock,
    #[comptime] tile: QueryTile,
) {
    let head_dim = comptime!(tile.head_dim);
    for i in range_stepped(UNIT_POS as usize, comptime!(tile.block() * tile.head_dim), comptime!(SIDE * SIDE))
    {
        let query = place.first + i / head_dim;
        let mut value = F::new(0.0);
        if query < place.count {
            value = q[place.head(query) * head_dim + i % head_dim];
        }
        queries[i / head_dim * comptime!(tile.stride()) + i % head_dim] = value;
    }
}

/// Resets the running numbers. `running` holds the highest score of each query, then the sum of its weights, then the
/// factor by which its sums so far shrink; unit `n` alone writes those of query `n`.
#[cube]
fn reset(running: &mut SharedMemory<f32>, sum_v: &mut Array<f32>, #[comptime] tile: QueryTile) {
    let block = comptime!(tile.block());
    let unit = UNIT_POS as usize;
    if unit < block {
        running[unit] = LOWEST;
        running[block + unit] = 0.0f32;
    }
    #[unroll]
    for i in 0..comptime!(tile.queries * tile.columns()) {
        sum_v[i] = 0.0f32;
    }
}

/// The smallest range that contains the keys of all rows of the block; empty where they have none.
#[cube]
pub(super) fn hull(
    bounds: &Array<i32>,
    place: &QueryBlock,
    #[comptime] range: usize,
    #[comptime] block: usize,
) -> (usize, usize) {
    let last = min(place.first + block, place.count) - 1;
    let mut begin = i32::MAX.runtime();
    let mut end = 0i32;
    for row in place.row(place.first)..place.row(last) + 1 {
        let from = bounds[4 * row + 2 * range];
        let to = bounds[4 * row + 2 * range + 1];
        if from < to {
            begin = min(begin, from);
            end = max(end, to);
        }
    }
    (min(begin, end) as usize, end as usize)
}

/// Loads keys or values `start ..` of one head, and zeros from `end` on, so that no weight of 0 meets a NaN.
#[cube]
pub(super) fn load<F: Float>(
    from: &Array<F>,
    keys: &mut SharedMemory<F>,
    start: usize,
    end: usize,
    place: &QueryBlock,
    #[comptime] tile: QueryTile,
) {
    let head_dim = comptime!(tile.head_dim);
    for i in range_stepped(UNIT_POS as usize, comptime!(tile.block() * tile.head_dim), comptime!(SIDE * SIDE))
    {
        let key = start + i / head_dim;
        let mut value = F::new(0.0);
        if key < end {
            value = from[(key * place.kv_heads + place.kv_head) * head_dim + i % head_dim];
        }
        keys[i / head_dim * comptime!(tile.stride()) + i % head_dim] = value;
    }
}

/// `scores = scale · queries · keysᵀ`, and `LOWEST` where a row does not see a key.
#[cube]
fn score<F: Float>(
    queries: &SharedMemory<F>,
    keys: &SharedMemory<F>,
    scores: &mut SharedMemory<f32>,
    bounds: &Array<i32>,
    start: usize,
    scale: f32,
    cap: f32,
    place: &QueryBlock,
    #[comptime] range: usize,
    #[comptime] tile: QueryTile,
) {
    let (n, stride) = comptime!((tile.queries, tile.stride()));
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize * n);
    let mut dots = Array::<f32>::new(comptime!(tile.queries * tile.queries));
    #[unroll]
    for i in 0..comptime!(tile.queries * tile.queries) {
        dots[i] = 0.0f32;
    }
    for d in 0..comptime!(tile.head_dim) {
        #[unroll]
        for j in 0..n {
            let key = f32::cast_from(keys[(x + j * SIDE) * stride + d]);
            #[unroll]
            for i in 0..n {
                dots[i * n + j] += f32::cast_from(queries[(y + i) * stride + d]) * key;
            }
        }
    }
    #[unroll]
    for i in 0..n {
        let query = place.first + y + i;
        let mut from = 0usize;
        let mut to = 0usize;
        if query < place.count {
            from = bounds[4 * place.row(query) + 2 * range] as usize;
            to = bounds[4 * place.row(query) + 2 * range + 1] as usize;
        }
        #[unroll]
        for j in 0..n {
            let key = start + x + j * SIDE;
            let score = bounded(dots[i * n + j] * scale, cap, comptime!(tile.capped));
            let score = select(key >= from && key < to, score, LOWEST);
            scores[(y + i) * comptime!(tile.block() + 1) + x + j * SIDE] = score;
        }
    }
}

/// Turns scores into weights relative to the highest score so far, one unit per query.
#[cube]
fn soften(scores: &mut SharedMemory<f32>, running: &mut SharedMemory<f32>, #[comptime] block: usize) {
    let unit = UNIT_POS as usize;
    if unit < block {
        let row = unit * comptime!(block + 1);
        let mut highest = running[unit];
        for key in 0..block {
            highest = max(highest, scores[row + key]);
        }
        let shrink = (running[unit] - highest).exp();
        let mut sum = running[block + unit] * shrink;
        for key in 0..block {
            let score = scores[row + key];
            // An invisible key has no weight, even before any key was visible.
            let weight = select(score == LOWEST, 0.0f32, (score - highest).exp());
            scores[row + key] = weight;
            sum += weight;
        }
        running[unit] = highest;
        running[block + unit] = sum;
        running[2 * block + unit] = shrink;
    }
}

/// `sum_v = shrink · sum_v + weights · values`
#[cube]
fn accumulate<F: Float>(
    weights: &SharedMemory<f32>,
    values: &SharedMemory<F>,
    running: &SharedMemory<f32>,
    sum_v: &mut Array<f32>,
    #[comptime] tile: QueryTile,
) {
    let (block, columns) = comptime!((tile.block(), tile.columns()));
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize * comptime!(tile.queries));
    #[unroll]
    for i in 0..comptime!(tile.queries) {
        let shrink = running[2 * block + y + i];
        #[unroll]
        for j in 0..columns {
            sum_v[i * columns + j] *= shrink;
        }
    }
    for key in 0..block {
        #[unroll]
        for j in 0..columns {
            let value = f32::cast_from(values[key * comptime!(tile.stride()) + x + j * SIDE]);
            #[unroll]
            for i in 0..comptime!(tile.queries) {
                sum_v[i * columns + j] += weights[(y + i) * comptime!(tile.block() + 1) + key] * value;
            }
        }
    }
}

#[cube]
fn store<F: Float>(
    sum_v: &Array<f32>,
    running: &SharedMemory<f32>,
    out: &mut Array<F>,
    place: &QueryBlock,
    #[comptime] tile: QueryTile,
) {
    let (block, columns, head_dim) = comptime!((tile.block(), tile.columns(), tile.head_dim));
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize * comptime!(tile.queries));
    #[unroll]
    for i in 0..comptime!(tile.queries) {
        let query = place.first + y + i;
        if query < place.count {
            #[unroll]
            for j in 0..columns {
                let d = x + j * SIDE;
                if d < head_dim {
                    let mean = sum_v[i * columns + j] / running[block + y + i];
                    out[place.head(query) * head_dim + d] = F::cast_from(mean);
                }
            }
        }
    }
}
