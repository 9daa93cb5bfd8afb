//! The choice of the kernels.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::super::buffers::{array, empty, empty_like};
use super::super::super::launch::{CUBE, spread};
use super::super::tensor_cores::{CoreTile, key_gradients, query_gradients};
use super::super::tiled::{QueryTile, SIDE};
use super::tiles::SUMS;
use super::untiled::WideHead;
use super::{hulls, key_blocks, query_blocks, untiled};
use crate::kernels::Scores;

/// Most shared memory of a cube, in bytes: several cubes must fit on a multiprocessor at a time.
const SHARED_BYTES: usize = 64 << 10;

/// Gradients of queries, keys and values.
///
/// # Shapes
/// `q`, `dy` and the first result: `[T, heads, head_dim]`; `k`, `v` and the other results: `[S, kv_heads, head_dim]`;
/// `bounds`: i32 `[4 × T]`; all contiguous.
pub(in crate::kernels::cube) fn launch<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 4],
    bounds: CubeTensor<R>,
    scores: Scores,
) -> [CubeTensor<R>; 3] {
    let [q, ..] = &inputs;
    match CoreTile::of_gradients(&q.client, q.dtype, q.shape()[2]) {
        Some(tile) => AttentionCall::new(inputs, bounds, scores).on_tensor_cores(tile),
        None => launch_without(inputs, bounds, scores),
    }
}

/// [`launch`] on tensor cores, or on loops in their place.
#[cfg(test)]
pub(in crate::kernels::cube::attention) fn launch_with<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 4],
    bounds: CubeTensor<R>,
    scores: Scores,
    tile: CoreTile,
) -> [CubeTensor<R>; 3] {
    AttentionCall::new(inputs, bounds, scores).on_tensor_cores(tile)
}

/// [`launch`] without tensor cores.
pub(in crate::kernels::cube::attention) fn launch_without<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 4],
    bounds: CubeTensor<R>,
    scores: Scores,
) -> [CubeTensor<R>; 3] {
    let [q, ..] = &inputs;
    let head_dim = q.shape()[2];
    let limit = q.client.properties().hardware.max_shared_memory_size.min(SHARED_BYTES);
    let (size, capped) = (q.dtype.size(), scores.cap.is_some());
    let tile = |bytes: fn(QueryTile, usize) -> usize| {
        let tiles = [4, 2, 1].map(|queries| QueryTile { queries, head_dim, capped });
        tiles.into_iter().find(|tile| bytes(*tile, size) <= limit)
    };
    let call = AttentionCall::new(inputs, bounds, scores);
    match (tile(query_blocks::bytes), tile(key_blocks::bytes)) {
        (Some(queries), Some(keys)) => call.tiled(queries, keys),
        _ => call.untiled(WideHead { head_dim, capped }),
    }
}

/// The tensors of both kernels.
struct AttentionCall<R: CubeRuntime> {
    /// Queries, keys, values, and the gradient of the result.
    inputs: [CubeTensor<R>; 4],
    bounds: CubeTensor<R>,
    scores: Scores,
    /// f32 `[T, heads, SUMS]`: written by the first kernel, read by the second.
    sums: CubeTensor<R>,
    gradients: [CubeTensor<R>; 3],
}

impl<R: CubeRuntime> AttentionCall<R> {
    fn new(inputs: [CubeTensor<R>; 4], bounds: CubeTensor<R>, scores: Scores) -> Self {
        let [q, k, ..] = &inputs;
        let sums = empty(q, [SUMS * q.shape()[0] * q.shape()[1]], DType::F32);
        let gradients = [empty_like(q), empty_like(k), empty_like(k)];
        Self { inputs, bounds, scores, sums, gradients }
    }

    fn on_tensor_cores(self, tile: CoreTile) -> [CubeTensor<R>; 3] {
        let Self { inputs, bounds, scores, sums, gradients: [dq, dk, dv] } = self;
        let hulls = hulls::launch(bounds.clone(), inputs[1].shape()[0], tile.queries());
        query_gradients::launch(inputs.clone(), bounds.clone(), scores, tile, sums.clone(), dq.clone());
        key_gradients::launch(inputs, [bounds, hulls], scores, tile, sums, [dk.clone(), dv.clone()]);
        [dq, dk, dv]
    }

    fn tiled(self, queries: QueryTile, keys: QueryTile) -> [CubeTensor<R>; 3] {
        let (rows, heads, key_rows, kv_heads) = self.sizes();
        let Self { inputs: [q, k, v, dy], bounds, scores, sums, gradients: [dq, dk, dv] } = self;
        let (client, dtype) = (q.client.clone(), q.dtype.into());
        let (scale, cap) = (scores.scale, scores.cap.unwrap_or(1.0));
        let blocks = |count: usize, tile: QueryTile| {
            CubeCount::Static(count.div_ceil(tile.block()) as u32, kv_heads as u32, 1)
        };
        let hulls = hulls::launch(bounds.clone(), key_rows, keys.block());
        query_blocks::query_gradients::launch::<R>(
            &client,
            blocks(rows * heads / kv_heads, queries),
            CubeDim::new_2d(SIDE as u32, SIDE as u32),
            array(q.clone()),
            array(k.clone()),
            array(v.clone()),
            array(dy.clone()),
            array(bounds.clone()),
            array(sums.clone()),
            array(dq.clone()),
            rows,
            heads,
            kv_heads,
            scale,
            cap,
            queries,
            dtype,
        );
        key_blocks::key_gradients::launch::<R>(
            &client,
            blocks(key_rows, keys),
            CubeDim::new_2d(SIDE as u32, SIDE as u32),
            array(q),
            array(k),
            array(v),
            array(dy),
            array(bounds),
            array(hulls),
            array(sums),
            array(dk.clone()),
            array(dv.clone()),
            key_rows,
            heads,
            kv_heads,
            scale,
            cap,
            keys,
            dtype,
        );
        [dq, dk, dv]
    }

    fn untiled(self, wide: WideHead) -> [CubeTensor<R>; 3] {
        let (rows, heads, key_rows, kv_heads) = self.sizes();
        let Self { inputs: [q, k, v, dy], bounds, scores, sums, gradients: [dq, dk, dv] } = self;
        let (client, dtype) = (q.client.clone(), q.dtype.into());
        let (scale, cap) = (scores.scale, scores.cap.unwrap_or(1.0));
        let hulls = hulls::launch(bounds.clone(), key_rows, 1);
        untiled::query_gradients::launch::<R>(
            &client,
            spread(rows * heads),
            CubeDim::new_1d(CUBE),
            array(q.clone()),
            array(k.clone()),
            array(v.clone()),
            array(dy.clone()),
            array(bounds.clone()),
            array(sums.clone()),
            array(dq.clone()),
            rows * heads,
            heads,
            kv_heads,
            scale,
            cap,
            wide,
            dtype,
        );
        untiled::key_gradients::launch::<R>(
            &client,
            spread(key_rows * kv_heads),
            CubeDim::new_1d(CUBE),
            array(q),
            array(k),
            array(v),
            array(dy),
            array(bounds),
            array(hulls),
            array(sums),
            array(dk.clone()),
            array(dv.clone()),
            key_rows * kv_heads,
            heads,
            kv_heads,
            scale,
            cap,
            wide,
            dtype,
        );
        [dq, dk, dv]
    }

    /// Rows and heads of the queries, and of the keys.
    fn sizes(&self) -> (usize, usize, usize, usize) {
        let [q, k, ..] = &self.inputs;
        (q.shape()[0], q.shape()[1], k.shape()[0], k.shape()[1])
    }
}
