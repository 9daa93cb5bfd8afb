//! The kernel and its launch.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::queries::QueryBlock;
use super::blocks::{hull, load_queries};
use super::fragments::{Pair, Scratch};
use super::products::{accumulate, clear, score};
use super::softmax::{Softmax, weigh};
use super::tile::{CoreTile, WARP, own_query};
use crate::kernels::Scores;

/// One cube per key head and block of queries, each warp with 16 of them.
#[cube(launch_unchecked, fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
fn attention<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    k: &Array<Vector<F, N>>,
    v: &Array<Vector<F, N>>,
    bounds: &Array<Vector<i32, Const<4>>>,
    out: &mut Array<Pair<F>>,
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
    let keys = comptime!(tile.keys);

    let mut scratch = Scratch::new(tile);
    let mut queries = SharedMemory::<Vector<F, N>>::new(comptime!(tile.queries() * tile.stride()));
    let mut keys_tile = SharedMemory::<Vector<F, N>>::new(comptime!(tile.keys * tile.stride()));
    let mut values_tile = SharedMemory::<Vector<F, N>>::new(comptime!(tile.keys * tile.stride()));
    load_queries(q, &mut queries, &place, comptime!(tile.queries()), tile);

    let mut scores = Array::<Pair<f32>>::new(comptime!(2 * tile.keys / 8));
    let mut sums = Array::<Pair<f32>>::new(comptime!(2 * tile.head_dim / 8));
    clear(&mut sums, comptime!(2 * tile.head_dim / 8), tile);
    let mut softmax = Softmax::new(bounds, &place);

    // The prefix and then the rows' own keys.
    let (prefix, prefix_end) = hull(bounds, &place, key_rows, 0usize, &mut scratch, tile);
    let (own, own_end) = hull(bounds, &place, key_rows, 1usize, &mut scratch, tile);
    let prefix_tiles = (prefix_end - prefix).div_ceil(keys);
    let tiles = prefix_tiles + (own_end - own).div_ceil(keys);
    // Keys and values are on their way from global memory while the other ones are multiplied.
    let mut coming = Array::<Vector<F, N>>::new(comptime!(tile.reads()));
    let start = select(0 < prefix_tiles, prefix, own);
    read(k, &mut coming, start, select(0 < prefix_tiles, prefix_end, own_end), &place, tile);
    for i in 0..tiles {
        let in_prefix = i < prefix_tiles;
        let start = select(in_prefix, prefix + i * keys, own + (i - prefix_tiles) * keys);
        let end = select(in_prefix, prefix_end, own_end);
        // No barrier is needed: every warp multiplied the last keys before the barrier of the last values.
        write(&coming, &mut keys_tile, tile);
        sync_cube();
        read(v, &mut coming, start, end, &place, tile);
        score::<F, N>(&queries, &keys_tile, &mut scores, &mut scratch, tile);
        weigh(&mut scores, &mut sums, &mut softmax, start, in_prefix, scale, cap, &mut scratch, tile);
        // No barrier is needed: every warp multiplied the last values before the barrier of these keys.
        write(&coming, &mut values_tile, tile);
        sync_cube();
        let in_prefix = i + 1 < prefix_tiles;
        let start = select(in_prefix, prefix + (i + 1) * keys, own + (i + 1 - prefix_tiles) * keys);
        // All keys of the tile after the last one are beyond the end.
        read(k, &mut coming, start, select(in_prefix, prefix_end, own_end), &place, tile);
        accumulate::<F, N>(&scores, &values_tile, &mut sums, &mut scratch, tile);
    }
    store(&sums, &mut softmax, out, &place, &mut scratch, tile);
}

/// Reads this unit's part of the keys or values `start ..` of one head, and zeros from `end` on, so that no weight of 0
/// meets a NaN.
#[cube]
fn read<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    coming: &mut Array<Vector<F, N>>,
    start: usize,
    end: usize,
    place: &QueryBlock,
    #[comptime] tile: CoreTile,
) {
    let vectors = comptime!(tile.vectors());
    #[unroll]
    for j in 0..comptime!(tile.reads()) {
        let i = UNIT_POS as usize + j * comptime!(tile.units());
        let key = start + i / vectors;
        let mut value = Vector::new(F::new(0.0));
        if key < end {
            value = from[(key * place.kv_heads + place.kv_head) * vectors + i % vectors];
        }
        coming[j] = value;
    }
}

/// Writes the vectors that all units have read to shared memory.
#[cube]
fn write<F: Float, N: Size>(
    coming: &Array<Vector<F, N>>,
    to: &mut SharedMemory<Vector<F, N>>,
    #[comptime] tile: CoreTile,
) {
    let vectors = comptime!(tile.vectors());
    #[unroll]
    for j in 0..comptime!(tile.reads()) {
        let i = UNIT_POS as usize + j * comptime!(tile.units());
        if i < comptime!(tile.keys * tile.vectors()) {
            to[i / vectors * comptime!(tile.stride()) + i % vectors] = coming[j];
        }
    }
}

#[cube]
fn store<F: Float>(
    sums: &Array<Pair<f32>>,
    softmax: &mut Softmax,
    out: &mut Array<Pair<F>>,
    place: &QueryBlock,
    scratch: &mut Scratch,
    #[comptime] tile: CoreTile,
) {
    let cores = comptime!(tile.cores);
    let lane = UNIT_POS as usize % WARP;
    #[unroll]
    for i in 0..2usize {
        let share = 1.0f32 / softmax.total(i, scratch, tile);
        let query = own_query(place, i);
        if query < place.count {
            let head = place.head(query) * comptime!(tile.head_dim / 2);
            #[unroll(cores)]
            for j in 0..comptime!(tile.head_dim / 8) {
                let mean = sums[2 * j + i] * Vector::new(share);
                out[head + j * 4 + lane % 4] = Vector::cast_from(mean);
            }
        }
    }
}

/// Attention on tensor cores.
///
/// # Shapes
/// As [`launch`](super::super::launch::launch); heads have the width, and all tensors the type, that `tile` was made for.
pub(in crate::kernels::cube::attention) fn launch<R: CubeRuntime>(
    [q, k, v, bounds]: [CubeTensor<R>; 4],
    scores: Scores,
    tile: CoreTile,
    out: CubeTensor<R>,
) {
    let client = q.client.clone();
    let (rows, heads, kv_heads, key_rows) = (q.shape()[0], q.shape()[1], k.shape()[1], k.shape()[0]);
    debug_assert_eq!(bounds.shape().num_elements(), 4 * rows);
    debug_assert!(k.shape() == v.shape() && q.shape() == out.shape());
    let dtype = q.dtype.into();
    let tile = CoreTile { capped: scores.cap.is_some(), ..tile };
    let blocks = (rows * heads / kv_heads).div_ceil(tile.queries());
    // SAFETY: queries are read and written below their count, which the shapes give, and keys and values below
    // `key_rows`. Shared memory has `stride` vectors for each of its rows.
    unsafe {
        attention::launch_unchecked::<R>(
            &client,
            CubeCount::Static(blocks as u32, kv_heads as u32, 1),
            CubeDim::new_1d(tile.units() as u32),
            tile.lanes,
            q.binding().into_array_arg(),
            k.binding().into_array_arg(),
            v.binding().into_array_arg(),
            bounds.binding().into_array_arg(),
            out.binding().into_array_arg(),
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
