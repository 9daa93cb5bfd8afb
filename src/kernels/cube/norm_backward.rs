//! The backward pass of the norm. All arithmetic is f32 inside, whatever the type of the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::buffers::array;
use super::launch::spread;
use super::norm::{scale, square};
use super::rows::{UNITS, lanes, output};
use super::share::{MOST_HELD, Share, place, plane, total};

/// `dx = r · (weight ∘ dy) − x · r³ / hidden · Σ(weight ∘ dy ∘ x)` per row, where `r = 1 / √(mean(x²) + eps)`.
#[cube(launch_unchecked)]
fn rms_norm_backward_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    dy: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<F, N>>,
    rows: usize,
    width: usize,
    eps: f32,
    #[comptime] share: Share,
    #[define(F)] _f: StorageType,
) {
    let lanes = N::value().comptime();
    let place = place(rows, width, share);
    let mut held_x = Array::<Vector<F, N>>::new(comptime!(share.vectors.min(MOST_HELD)));
    let mut held_dy = Array::<Vector<F, N>>::new(comptime!(share.vectors.min(MOST_HELD)));
    let mut squares = Vector::<f32, N>::empty().fill(0.0f32);
    let mut products = Vector::<f32, N>::empty().fill(0.0f32);
    #[unroll(share.holds())]
    for n in 0..comptime!(share.vectors) {
        let i = place.unit + n * comptime!(share.units);
        if i < place.width {
            let (x, dy) = (x[place.first + i], dy[place.first + i]);
            if comptime!(share.holds()) {
                held_x[n] = x;
                held_dy[n] = dy;
            }
            squares += square(x);
            products += weight[i] * Vector::<f32, N>::cast_from(dy) * Vector::<f32, N>::cast_from(x);
        }
    }
    let r = scale(squares, width, eps, share);
    let share_of_x = r * r * r / f32::cast_from((width * lanes) as u32) * total(products, share);
    #[unroll(share.holds())]
    for n in 0..comptime!(share.vectors) {
        let i = place.unit + n * comptime!(share.units);
        if i < place.width {
            let x = if comptime!(share.holds()) { held_x[n] } else { x[place.first + i] };
            let dy = if comptime!(share.holds()) { held_dy[n] } else { dy[place.first + i] };
            let of_norm = Vector::new(r) * weight[i] * Vector::<f32, N>::cast_from(dy);
            let of_scale = Vector::new(share_of_x) * Vector::<f32, N>::cast_from(x);
            out[place.first + i] = Vector::cast_from(of_norm - of_scale);
        }
    }
}

/// The gradient of `x`, written in place of `dy` if nobody else holds that.
///
/// # Shapes
/// `x`, `dy` and the result: `[T, hidden]`; `weight`: f32 `[hidden]`; all contiguous.
pub(super) fn rms_norm_backward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    eps: f32,
    dy: CubeTensor<R>,
) -> CubeTensor<R> {
    let client = x.client.clone();
    let (rows, hidden, dtype) = (x.shape()[0], x.shape()[1], x.dtype);
    let lanes = lanes(dtype.size(), &[hidden]);
    let share = Share::new(hidden / lanes, plane(&client));
    let (out, out_arg) = output(&dy, 1);
    // SAFETY: a unit's row is below `rows` and its vector below `hidden / lanes` wherever it reads or writes: past
    // the last row `UnitPlace::width` is 0. So it stays within the `rows · hidden` elements of `x`, `dy` and `out` and
    // the `hidden` of `weight`. What is held and the shared memory have the lengths that `share` gives their indices.
    // Where `out` is `dy`, each vector is read by the unit that writes it, before it does.
    unsafe {
        rms_norm_backward_kernel::launch_unchecked::<R>(
            &client,
            spread(rows.div_ceil(share.rows)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            array(x),
            array(dy),
            array(weight),
            out_arg,
            rows,
            hidden / lanes,
            eps,
            share,
            dtype.into(),
        );
    }
    out
}
