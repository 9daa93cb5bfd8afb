//! Attention, one unit per query row and head, with a running maximum so that no score is stored.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{CUBE, cubes};

#[cube(launch)]
fn attention<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    bounds: &Array<i32>,
    out: &mut Array<F>,
    units: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    #[comptime] head_dim: usize,
    #[define(F)] _f: StorageType,
) {
    let unit = ABSOLUTE_POS;
    if unit >= units {
        terminate!();
    }
    let row = unit / heads;
    let kv_head = (unit % heads) / (heads / kv_heads);

    let mut query = Array::<f32>::new(head_dim);
    let mut sum_v = Array::<f32>::new(head_dim);
    for i in 0..head_dim {
        query[i] = f32::cast_from(q[unit * head_dim + i]) * scale;
        sum_v[i] = 0.0f32;
    }
    let mut max = f32::new(-3.0e38);
    let mut sum = 0.0f32;
    let prefix = bounds[4 * row] as usize;
    let prefix_length = bounds[4 * row + 1] as usize - prefix;
    let own = bounds[4 * row + 2] as usize;
    let own_length = bounds[4 * row + 3] as usize - own;
    for i in 0..prefix_length + own_length {
        let key = select(i < prefix_length, prefix + i, i + own - prefix_length);
        let at = (key * kv_heads + kv_head) * head_dim;
        let mut score = 0.0f32;
        for i in 0..head_dim {
            score += query[i] * f32::cast_from(k[at + i]);
        }
        let new_max = select(score > max, score, max);
        let shrink = (max - new_max).exp();
        let p = (score - new_max).exp();
        max = new_max;
        sum = sum * shrink + p;
        for i in 0..head_dim {
            sum_v[i] = sum_v[i] * shrink + p * f32::cast_from(v[at + i]);
        }
    }
    for i in 0..head_dim {
        out[unit * head_dim + i] = F::cast_from(sum_v[i] / sum);
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
    scale: f32,
    out: CubeTensor<R>,
) {
    let client = q.client.clone();
    let (heads, head_dim, kv_heads) = (q.shape()[1], q.shape()[2], k.shape()[1]);
    let units = q.shape()[0] * heads;
    let dtype = q.dtype.into();
    attention::launch::<R>(
        &client,
        cubes(units),
        CubeDim::new_1d(CUBE),
        q.binding().into_array_arg(),
        k.binding().into_array_arg(),
        v.binding().into_array_arg(),
        bounds.binding().into_array_arg(),
        out.binding().into_array_arg(),
        units,
        heads,
        kv_heads,
        scale,
        head_dim,
        dtype,
    );
}
