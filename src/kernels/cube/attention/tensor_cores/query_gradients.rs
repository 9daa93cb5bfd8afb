//! Gradients of queries on tensor cores, and the sums of each query that those of the keys need; the formulas stand in
//! [`backward`](super::super::backward).

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::super::buffers::array;
use super::super::queries::QueryBlock;
use super::blocks::{hull, load_keys, load_queries};
use super::fragments::{Pair, Scratch};
use super::products::{accumulate, clear, score};
use super::softmax::{Softmax, highest_of_row, highest_score, mask, scale_and_cap, sum_of_row};
use super::tile::{CoreTile, own_query};
use crate::kernels::Scores;

/// One cube per key head and block of queries, each warp with 16 of them. It goes over the keys twice: for the sums, then
/// for the gradient.
#[cube(launch_unchecked, fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
fn query_gradients<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    k: &Array<Vector<F, N>>,
    v: &Array<Vector<F, N>>,
    dy: &Array<Vector<F, N>>,
    bounds: &Array<Vector<i32, Const<4>>>,
    sums: &mut Array<Pair<f32>>,
    dq: &mut Array<Pair<F>>,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    key_rows: usize,
    scale: f32,
    cap: f32,
    #[comptime] tile: CoreTile,
    #[define(F)] _f: StorageType,
) {
    let kv_head = CUBE_POS_Y as usize;
    // The last rows of a sequence see the most keys: they come first.
    let count = rows * (heads / kv_heads);
    let block = count.div_ceil(comptime!(tile.queries())) - 1 - CUBE_POS_X as usize;
    let first = block * comptime!(tile.queries());
    let place = QueryBlock { heads, kv_heads, kv_head, first, count };

    let mut scratch = Scratch::new(tile);
    let mut queries = SharedMemory::<Vector<F, N>>::new(comptime!(tile.queries() * tile.stride()));
    let mut gradients = SharedMemory::<Vector<F, N>>::new(comptime!(tile.queries() * tile.stride()));
    let mut keys = SharedMemory::<Vector<F, N>>::new(comptime!(tile.keys * tile.stride()));
    let mut values = SharedMemory::<Vector<F, N>>::new(comptime!(tile.keys * tile.stride()));
    load_queries(q, &mut queries, &place, comptime!(tile.queries()), tile);
    load_queries(dy, &mut gradients, &place, comptime!(tile.queries()), tile);

    let mut scores = Array::<Pair<f32>>::new(comptime!(2 * tile.keys / 8));
    let mut dp = Array::<Pair<f32>>::new(comptime!(2 * tile.keys / 8));
    let mut sum_k = Array::<Pair<f32>>::new(comptime!(2 * tile.head_dim / 8));
    clear(&mut sum_k, comptime!(2 * tile.head_dim / 8), tile);
    let mut softmax = Softmax::new(bounds, &place);
    let mut totals = Array::<f32>::new(2usize);
    totals[0] = 0.0f32;
    totals[1] = 0.0f32;

    // The prefix and then the rows' own keys.
    let (prefix, prefix_end) = hull(bounds, &place, key_rows, 0usize, &mut scratch, tile);
    let (own, own_end) = hull(bounds, &place, key_rows, 1usize, &mut scratch, tile);
    let step = comptime!(tile.keys);
    let prefix_tiles = (prefix_end - prefix).div_ceil(step);
    let tiles = prefix_tiles + (own_end - own).div_ceil(step);
    for i in 0..2 * tiles {
        let in_sums = i < tiles;
        let i = select(in_sums, i, i - tiles);
        let in_prefix = i < prefix_tiles;
        let start = select(in_prefix, prefix + i * step, own + (i - prefix_tiles) * step);
        let end = select(in_prefix, prefix_end, own_end);
        load_keys(k, &mut keys, start, end, &place, step, tile);
        load_keys(v, &mut values, start, end, &place, step, tile);
        sync_cube();
        score::<F, N>(&queries, &keys, &mut scores, &mut scratch, tile);
        score::<F, N>(&gradients, &values, &mut dp, &mut scratch, tile);
        #[unroll]
        for half in 0..2usize {
            scale_and_cap(&mut scores, half, scale, cap, tile);
            let (from, to) = softmax.seen(half, in_prefix);
            if start < from || start + step > to {
                mask(&mut scores, half, start, from, to, tile);
            }
        }
        if in_sums {
            run(&mut scores, &dp, &mut softmax, &mut totals, &mut scratch, tile);
            if i + 1 == tiles {
                finish(&mut softmax, &mut totals, &mut scratch, tile);
            }
        } else {
            differentiate(&mut scores, &dp, &softmax, &totals, scale, cap, tile);
            accumulate::<F, N>(&scores, &keys, &mut sum_k, &mut scratch, tile);
        }
        sync_cube();
    }
    store(&sum_k, &softmax, &totals, sums, dq, &place, tile);
}

/// Adds a tile of keys to the running sums.
#[cube]
fn run(
    scores: &mut Array<Pair<f32>>,
    dp: &Array<Pair<f32>>,
    softmax: &mut Softmax,
    totals: &mut Array<f32>,
    scratch: &mut Scratch,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    #[unroll]
    for i in 0..2usize {
        let last = softmax.highest[i];
        let highest = highest_of_row(highest_score(scores, i, last, tile), scratch, tile);
        let shrink = (last - highest).exp();
        let mut sum = softmax.sums[i] * shrink;
        let mut total = totals[i] * shrink;
        #[unroll(cores)]
        for j in 0..comptime!(tile.keys / 8) {
            let (pair, dp) = (scores[2 * j + i], dp[2 * j + i]);
            #[unroll]
            for c in 0..2usize {
                let weight = (pair[c] - highest).exp();
                sum += weight;
                total += weight * dp[c];
            }
        }
        softmax.highest[i] = highest;
        softmax.sums[i] = sum;
        totals[i] = total;
    }
}

/// Turns the running sums into the logarithm of the sum, in place of the highest score, and the total. Both are 0 past the
/// last query.
#[cube]
fn finish(softmax: &mut Softmax, totals: &mut Array<f32>, scratch: &mut Scratch, #[comptime] tile: CoreTile) {
    #[unroll]
    for i in 0..2usize {
        let sum = softmax.total(i, scratch, tile);
        let total = sum_of_row(totals[i], scratch, tile);
        let seen = sum > 0.0f32;
        let sum = select(seen, sum, 1.0f32);
        softmax.highest[i] = select(seen, softmax.highest[i] + sum.ln(), 0.0f32);
        totals[i] = total / sum;
    }
}

/// Turns scores into the gradients of products of queries and keys.
#[cube]
fn differentiate(
    scores: &mut Array<Pair<f32>>,
    dp: &Array<Pair<f32>>,
    softmax: &Softmax,
    totals: &Array<f32>,
    scale: f32,
    cap: f32,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    #[unroll]
    for i in 0..2usize {
        #[unroll(cores)]
        for j in 0..comptime!(tile.keys / 8) {
            let mut pair = scores[2 * j + i];
            let dp = dp[2 * j + i];
            #[unroll]
            for c in 0..2usize {
                let p = (pair[c] - softmax.highest[i]).exp();
                pair[c] = p * (dp[c] - totals[i]) * slope(pair[c], cap, comptime!(tile.capped)) * scale;
            }
            scores[2 * j + i] = pair;
        }
    }
}

/// Derivative of a score, or of one that is not seen, with respect to the product before its cap.
#[cube]
pub(super) fn slope(score: f32, cap: f32, #[comptime] capped: bool) -> f32 {
    if comptime!(capped) {
        let share = max(score / cap, -1.0f32);
        1.0f32 - share * share
    } else {
        1.0f32.runtime()
    }
}

#[cube]
fn store<F: Float>(
    sum_k: &Array<Pair<f32>>,
    softmax: &Softmax,
    totals: &Array<f32>,
    sums: &mut Array<Pair<f32>>,
    dq: &mut Array<Pair<F>>,
    place: &QueryBlock,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    let column = UNIT_POS as usize % 4;
    #[unroll]
    for i in 0..2usize {
        let query = own_query(place, i);
        if query < place.count {
            let head = place.head(query);
            if column == 0 {
                let mut pair = Pair::<f32>::empty();
                pair[0] = softmax.highest[i];
                pair[1] = totals[i];
                sums[head] = pair;
            }
            #[unroll(cores)]
            for j in 0..comptime!(tile.head_dim / 8) {
                let at = head * comptime!(tile.head_dim / 2) + j * 4 + column;
                dq[at] = Vector::cast_from(sum_k[2 * j + i]);
            }
        }
    }
}

/// Writes the gradient of the queries and the sums of each: the logarithm of the sum of the exponentials of its scores, and
/// its `total`.
///
/// # Shapes
/// `q`, `dy`, `dq`: `[T, heads, head_dim]`; `k`, `v`: `[S, kv_heads, head_dim]`; `bounds`: i32 `[4 × T]`; `sums`: f32
/// `[T, heads, 2]`; all contiguous; heads have the width, and all floats but `sums` the type, that `tile` was made for.
pub(in crate::kernels::cube::attention) fn launch<R: CubeRuntime>(
    [q, k, v, dy]: [CubeTensor<R>; 4],
    bounds: CubeTensor<R>,
    scores: Scores,
    tile: CoreTile,
    sums: CubeTensor<R>,
    dq: CubeTensor<R>,
) {
    let client = q.client.clone();
    let (rows, heads, kv_heads, key_rows) = (q.shape()[0], q.shape()[1], k.shape()[1], k.shape()[0]);
    let dtype = q.dtype.into();
    let tile = CoreTile { capped: scores.cap.is_some(), ..tile };
    let blocks = (rows * heads / kv_heads).div_ceil(tile.queries());
    // SAFETY: queries are read and written below their count, which the shapes give, as are their sums, and keys and
    // values below `key_rows`. Shared memory has `stride` vectors for each of its rows.
    unsafe {
        query_gradients::launch_unchecked::<R>(
            &client,
            CubeCount::Static(blocks as u32, kv_heads as u32, 1),
            CubeDim::new_1d(tile.units() as u32),
            tile.lanes,
            array(q),
            array(k),
            array(v),
            array(dy),
            array(bounds),
            array(sums),
            array(dq),
            rows,
            heads,
            kv_heads,
            key_rows,
            scores.scale,
            scores.cap.unwrap_or(1.0),
            tile,
            dtype,
        );
    }
}
