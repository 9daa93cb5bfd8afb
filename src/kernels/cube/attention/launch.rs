//! The choice of the kernel.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::launch::{CUBE, cubes};
use super::tensor_cores::{self, CoreTile};
use super::tiled::{self, QueryTile, SIDE};
use super::untiled;
use crate::kernels::Scores;

/// Most shared memory of a cube, in bytes: several cubes must fit on a multiprocessor at a time.
const SHARED_BYTES: usize = 32 << 10;

/// Attention by the best kernel for the type, the heads and the device.
///
/// # Shapes
/// `q`, `out`: `[T, heads, head_dim]`; `k`, `v`: `[S, kv_heads, head_dim]`; `bounds`: i32
/// `[4 × T]`; all contiguous.
pub(in crate::kernels::cube) fn launch<R: CubeRuntime>(
    q: CubeTensor<R>,
    k: CubeTensor<R>,
    v: CubeTensor<R>,
    bounds: CubeTensor<R>,
    scores: Scores,
    out: CubeTensor<R>,
) {
    match CoreTile::of(&q.client, q.dtype, q.shape()[2]) {
        Some(tile) => tensor_cores::launch([q, k, v, bounds], scores, tile, out),
        None => launch_without(q, k, v, bounds, scores, out),
    }
}

/// [`launch`] without tensor cores.
pub(super) fn launch_without<R: CubeRuntime>(
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
    let tile = [4, 2, 1].map(|queries| QueryTile { queries, head_dim, capped });
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
