//! Attention with a running maximum (Dao et al. 2022), so that no score ever reaches global memory.

mod tensor_cores;
#[cfg(test)]
mod tests;
mod tiled;
mod untiled;

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use self::tiled::{SIDE, Tile};
use super::{CUBE, cubes};
use crate::kernels::Scores;

/// Below every score.
const LOWEST: f32 = -3.0e38;

/// Shared memory that a cube may take: several must fit on a multiprocessor at a time.
const SHARED_BYTES: usize = 32 << 10;

/// `cap · tanh(score / cap)`, where scores are capped at all.
#[cube]
fn bounded(score: f32, cap: f32, #[comptime] capped: bool) -> f32 {
    if comptime!(capped) {
        // Beyond this tanh is 1, and the exponential soon infinite.
        let doubled = min(2.0f32 * score / cap, 60.0f32);
        cap * (1.0f32 - 2.0f32 / (doubled.exp() + 1.0f32))
    } else {
        score
    }
}

/// Where a cube's queries are: query `n` of a key head is row `n / group` with the `n % group`-th of the
/// heads that read this key head.
#[derive(CubeType, Clone, Copy)]
struct Place {
    heads: usize,
    kv_heads: usize,
    kv_head: usize,
    /// The first of the cube's queries.
    first: usize,
    /// All queries of a key head.
    count: usize,
}

#[cube]
impl Place {
    fn row(&self, query: usize) -> usize {
        query / (self.heads / self.kv_heads)
    }

    /// The number of a query's row and head in `q` and `out`.
    fn head(&self, query: usize) -> usize {
        let group = self.heads / self.kv_heads;
        query / group * self.heads + self.kv_head * group + query % group
    }
}

/// # Shapes
/// `q`, `out`: `[T, heads, head_dim]`; `k`, `v`: `[S, kv_heads, head_dim]`; `bounds`: i32
/// `[4 × T]`; all contiguous.
pub(super) fn launch<R: CubeRuntime>(
    q: CubeTensor<R>,
    k: CubeTensor<R>,
    v: CubeTensor<R>,
    bounds: CubeTensor<R>,
    scores: Scores,
    out: CubeTensor<R>,
) {
    match tensor_cores::Tile::of(&q.client, q.dtype, q.shape()[2]) {
        Some(tile) => tensor_cores::launch([q, k, v, bounds], scores, tile, out),
        None => launch_without(q, k, v, bounds, scores, out),
    }
}

/// [`launch`] without tensor cores.
fn launch_without<R: CubeRuntime>(
    q: CubeTensor<R>,
    k: CubeTensor<R>,
    v: CubeTensor<R>,
    bounds: CubeTensor<R>,
    scores: Scores,
    out: CubeTensor<R>,
) {
    let client = q.client.clone();
    let (heads, head_dim, kv_heads) = (q.shape()[1], q.shape()[2], k.shape()[1]);
    let rows = q.shape()[0];
    let dtype = q.dtype.into();
    let limit = client.properties().hardware.max_shared_memory_size.min(SHARED_BYTES);
    let (scale, capped, cap) = (scores.scale, scores.cap.is_some(), scores.cap.unwrap_or(1.0));
    let tile = [4, 2, 1].map(|queries| Tile { queries, head_dim, capped });
    let tile = tile.into_iter().find(|tile| tile.shared_bytes(q.dtype.size()) <= limit);
    let Some(tile) = tile else {
        return untiled::attention::launch::<R>(
            &client,
            cubes(rows * heads * head_dim),
            CubeDim::new_1d(CUBE),
            q.binding().into_array_arg(),
            k.binding().into_array_arg(),
            v.binding().into_array_arg(),
            bounds.binding().into_array_arg(),
            out.binding().into_array_arg(),
            rows * heads * head_dim,
            heads,
            kv_heads,
            head_dim,
            scale,
            cap,
            capped,
            dtype,
        );
    };
    let blocks = (rows * heads / kv_heads).div_ceil(tile.block());
    tiled::attention::launch::<R>(
        &client,
        CubeCount::Static(blocks as u32, kv_heads as u32, 1),
        CubeDim::new_2d(SIDE as u32, SIDE as u32),
        q.binding().into_array_arg(),
        k.binding().into_array_arg(),
        v.binding().into_array_arg(),
        bounds.binding().into_array_arg(),
        out.binding().into_array_arg(),
        rows,
        heads,
        kv_heads,
        scale,
        cap,
        tile,
        dtype,
    );
}
