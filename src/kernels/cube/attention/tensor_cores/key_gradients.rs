//! Gradients of keys and values on tensor cores; the formulas stand in [`backward`](super::super::backward).

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::super::buffers::array;
use super::super::queries::{QueryBlock, bounded};
use super::blocks::{load_keys, load_queries};
use super::fragments::{Pair, Scratch};
use super::products::{accumulate, clear, score};
use super::query_gradients::slope;
use super::tile::{CoreTile, ROWS, WARP};
use crate::kernels::Scores;

/// Widest head for which both gradients are computed at once: their sums fill a warp's registers.
const WIDEST_PAIR: usize = 128;

/// The gradients that a launch computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct KeySums {
    keys: bool,
    values: bool,
}

impl KeySums {
    const BOTH: Self = Self { keys: true, values: true };
    const EACH: [Self; 2] = [Self { keys: true, values: false }, Self { keys: false, values: true }];
}

/// One cube per key head and block of keys, each warp with 16 of them, over the queries of all heads that read the key head.
#[cube(launch_unchecked, fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
fn key_gradients<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    k: &Array<Vector<F, N>>,
    v: &Array<Vector<F, N>>,
    dy: &Array<Vector<F, N>>,
    bounds: &Array<Vector<i32, Const<4>>>,
    hulls: &Array<i32>,
    sums: &Array<Pair<f32>>,
    dk: &mut Array<Pair<F>>,
    dv: &mut Array<Pair<F>>,
    key_rows: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] tile: CoreTile,
    #[comptime] wanted: KeySums,
    #[define(F)] _f: StorageType,
) {
    let kv_head = CUBE_POS_Y as usize;
    let first = CUBE_POS_X as usize * comptime!(tile.queries());
    let step = comptime!(tile.keys);
    let group = heads / kv_heads;
    let begin = hulls[2 * CUBE_POS_X as usize] as usize * group;
    let count = hulls[2 * CUBE_POS_X as usize + 1] as usize * group;
    let place = QueryBlock { heads, kv_heads, kv_head, first: begin, count };

    let mut scratch = Scratch::new(tile);
    let mut keys = SharedMemory::<Vector<F, N>>::new(comptime!(tile.queries() * tile.stride()));
    let mut values = SharedMemory::<Vector<F, N>>::new(comptime!(tile.queries() * tile.stride()));
    let mut queries = SharedMemory::<Vector<F, N>>::new(comptime!(tile.keys * tile.stride()));
    let mut gradients = SharedMemory::<Vector<F, N>>::new(comptime!(tile.keys * tile.stride()));
    let mut row_bounds = SharedMemory::<Vector<i32, Const<4>>>::new(comptime!(tile.keys));
    let mut row_sums = SharedMemory::<Pair<f32>>::new(comptime!(tile.keys));
    load_keys(k, &mut keys, first, key_rows, &place, comptime!(tile.queries()), tile);
    load_keys(v, &mut values, first, key_rows, &place, comptime!(tile.queries()), tile);

    let mut p = Array::<Pair<f32>>::new(comptime!(2 * tile.keys / 8));
    let mut ds = Array::<Pair<f32>>::new(comptime!(2 * tile.keys / 8));
    let of_keys = comptime!(if wanted.keys { 2 * tile.head_dim / 8 } else { 1 });
    let of_values = comptime!(if wanted.values { 2 * tile.head_dim / 8 } else { 1 });
    let mut sum_q = Array::<Pair<f32>>::new(of_keys);
    let mut sum_dy = Array::<Pair<f32>>::new(of_values);
    clear(&mut sum_q, of_keys, tile);
    clear(&mut sum_dy, of_values, tile);

    for start in range_stepped(begin, count, step) {
        let place = QueryBlock { heads, kv_heads, kv_head, first: start, count };
        load_queries(q, &mut queries, &place, step, tile);
        load_queries(dy, &mut gradients, &place, step, tile);
        let unit = UNIT_POS as usize;
        if unit < step {
            let query = start + unit;
            let mut seen = Vector::new(0i32);
            let mut numbers = Vector::new(0.0f32);
            if query < count {
                seen = bounds[place.row(query)];
                numbers = sums[place.head(query)];
            }
            row_bounds[unit] = seen;
            row_sums[unit] = numbers;
        }
        sync_cube();
        score::<F, N>(&keys, &queries, &mut p, &mut scratch, tile);
        if comptime!(wanted.keys) {
            score::<F, N>(&values, &gradients, &mut ds, &mut scratch, tile);
        }
        differentiate(&mut p, &mut ds, &row_bounds, &row_sums, first, scale, cap, tile, wanted);
        if comptime!(wanted.values) {
            accumulate::<F, N>(&p, &gradients, &mut sum_dy, &mut scratch, tile);
        }
        if comptime!(wanted.keys) {
            accumulate::<F, N>(&ds, &queries, &mut sum_q, &mut scratch, tile);
        }
        sync_cube();
    }
    if comptime!(wanted.keys) {
        store(&sum_q, dk, first, key_rows, &place, tile);
    }
    if comptime!(wanted.values) {
        store(&sum_dy, dv, first, key_rows, &place, tile);
    }
}

/// The upper (0) or lower (1) of this lane's two keys.
#[cube]
fn own_key(first: usize, #[comptime] half: usize) -> usize {
    first + UNIT_POS as usize / WARP * ROWS + UNIT_POS as usize % WARP / 4 + half * 8
}

/// Turns products of keys and queries into probabilities, and products of values and gradients into the gradients of the
/// former; 0 where a row does not see a key.
#[cube]
fn differentiate(
    p: &mut Array<Pair<f32>>,
    ds: &mut Array<Pair<f32>>,
    row_bounds: &SharedMemory<Vector<i32, Const<4>>>,
    row_sums: &SharedMemory<Pair<f32>>,
    first: usize,
    scale: f32,
    cap: f32,
    #[comptime] tile: CoreTile,
    #[comptime] wanted: KeySums,
) {
    let cores = comptime!(tile.cores);
    #[unroll(cores)]
    for j in 0..comptime!(tile.keys / 8) {
        #[unroll]
        for c in 0..2usize {
            let query = 8 * j + UNIT_POS as usize % 4 * 2 + c;
            let (seen, sums) = (row_bounds[query], row_sums[query]);
            #[unroll]
            for i in 0..2usize {
                let key = own_key(first, i) as i32;
                let in_prefix = key >= seen[0] && key < seen[1];
                let visible = in_prefix || (key >= seen[2] && key < seen[3]);
                let mut pair = p[2 * j + i];
                let score = bounded(pair[c] * scale, cap, comptime!(tile.capped));
                let weight = select(visible, (score - sums[0]).exp(), 0.0f32);
                pair[c] = weight;
                p[2 * j + i] = pair;
                if comptime!(wanted.keys) {
                    let mut pair = ds[2 * j + i];
                    let slope = slope(score, cap, comptime!(tile.capped));
                    pair[c] = weight * (pair[c] - sums[1]) * slope * scale;
                    ds[2 * j + i] = pair;
                }
            }
        }
    }
}

#[cube]
fn store<F: Float>(
    sums: &Array<Pair<f32>>,
    out: &mut Array<Pair<F>>,
    first: usize,
    key_rows: usize,
    place: &QueryBlock,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    let lane = UNIT_POS as usize % WARP;
    #[unroll]
    for i in 0..2usize {
        let key = own_key(first, i);
        if key < key_rows {
            let head = (key * place.kv_heads + place.kv_head) * comptime!(tile.head_dim / 2);
            #[unroll(cores)]
            for j in 0..comptime!(tile.head_dim / 8) {
                out[head + j * 4 + lane % 4] = Vector::cast_from(sums[2 * j + i]);
            }
        }
    }
}

/// Writes the gradients of keys and values.
///
/// # Shapes
/// As those of [`query_gradients`](super::query_gradients::launch); `hulls`: i32 `[2 × blocks]`, the rows of queries that
/// attend to each block of `tile.queries()` keys; `dk`, `dv`: like `k`.
pub(in crate::kernels::cube::attention) fn launch<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 4],
    [bounds, hulls]: [CubeTensor<R>; 2],
    scores: Scores,
    tile: CoreTile,
    sums: CubeTensor<R>,
    [dk, dv]: [CubeTensor<R>; 2],
) {
    let [q, k, ..] = &inputs;
    let (client, dtype) = (q.client.clone(), q.dtype.into());
    let (heads, kv_heads, key_rows) = (q.shape()[1], k.shape()[1], k.shape()[0]);
    let tile = CoreTile { capped: scores.cap.is_some(), ..tile };
    let blocks = key_rows.div_ceil(tile.queries());
    debug_assert_eq!(hulls.shape().num_elements(), 2 * blocks);
    let launches = if tile.head_dim <= WIDEST_PAIR { vec![KeySums::BOTH] } else { KeySums::EACH.to_vec() };
    for wanted in launches {
        let [q, k, v, dy] = inputs.clone();
        // SAFETY: keys and values are read and written below `key_rows`, and queries, their sums and bounds below the end
        // of a range of `hulls`, which holds rows of `bounds` alone. Shared memory has `stride` vectors for each of its rows.
        unsafe {
            key_gradients::launch_unchecked::<R>(
                &client,
                CubeCount::Static(blocks as u32, kv_heads as u32, 1),
                CubeDim::new_1d(tile.units() as u32),
                tile.lanes,
                array(q),
                array(k),
                array(v),
                array(dy),
                array(bounds.clone()),
                array(hulls.clone()),
                array(sums.clone()),
                array(dk.clone()),
                array(dv.clone()),
                key_rows,
                heads,
                kv_heads,
                scores.scale,
                scores.cap.unwrap_or(1.0),
                tile,
                wanted,
                dtype,
            );
        }
    }
}
