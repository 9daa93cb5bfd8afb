//! Root mean square norms, of a tensor and of a sum. All arithmetic is f32 inside, whatever the type of the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::buffers::array;
use super::launch::spread;
use super::rows::{UNITS, lanes, output};
use super::share::{MOST_HELD, Share, place, plane, total};

#[cube(launch_unchecked)]
fn rms_norm_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<F, N>>,
    rows: usize,
    width: usize,
    eps: f32,
    #[comptime] share: Share,
    #[define(F)] _f: StorageType,
) {
    let place = place(rows, width, share);
    let mut held = Array::<Vector<F, N>>::new(comptime!(share.vectors.min(MOST_HELD)));
    let mut squares = Vector::<f32, N>::empty().fill(0.0f32);
    #[unroll(share.holds())]
    for n in 0..comptime!(share.vectors) {
        let i = place.unit + n * comptime!(share.units);
        if i < place.width {
            let value = x[place.first + i];
            if comptime!(share.holds()) {
                held[n] = value;
            }
            squares += square(value);
        }
    }
    let scale = scale(squares, width, eps, share);
    #[unroll(share.holds())]
    for n in 0..comptime!(share.vectors) {
        let i = place.unit + n * comptime!(share.units);
        if i < place.width {
            let value = if comptime!(share.holds()) { held[n] } else { x[place.first + i] };
            out[place.first + i] = normed(value, scale, weight[i]);
        }
    }
}

/// Writes `x + y`, rounded to the type of both, to `sum`, and its norm to `out`.
#[cube(launch_unchecked)]
fn add_rms_norm_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    y: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    sum: &mut Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    rows: usize,
    width: usize,
    eps: f32,
    #[comptime] share: Share,
    #[define(F)] _f: StorageType,
) {
    let place = place(rows, width, share);
    let mut held = Array::<Vector<F, N>>::new(comptime!(share.vectors.min(MOST_HELD)));
    let mut squares = Vector::<f32, N>::empty().fill(0.0f32);
    #[unroll(share.holds())]
    for n in 0..comptime!(share.vectors) {
        let i = place.unit + n * comptime!(share.units);
        if i < place.width {
            let at = place.first + i;
            let added = Vector::<f32, N>::cast_from(x[at]) + Vector::<f32, N>::cast_from(y[at]);
            let value = Vector::<F, N>::cast_from(added);
            sum[at] = value;
            if comptime!(share.holds()) {
                held[n] = value;
            }
            squares += square(value);
        }
    }
    let scale = scale(squares, width, eps, share);
    #[unroll(share.holds())]
    for n in 0..comptime!(share.vectors) {
        let i = place.unit + n * comptime!(share.units);
        if i < place.width {
            let value = if comptime!(share.holds()) { held[n] } else { sum[place.first + i] };
            out[place.first + i] = normed(value, scale, weight[i]);
        }
    }
}

#[cube]
pub fn square<F: Float, N: Size>(value: Vector<F, N>) -> Vector<f32, N> {
    let value = Vector::<f32, N>::cast_from(value);
    value * value
}

#[cube]
fn normed<F: Float, N: Size>(value: Vector<F, N>, scale: f32, weight: Vector<f32, N>) -> Vector<F, N> {
    Vector::cast_from(Vector::<f32, N>::cast_from(value) * Vector::new(scale) * weight)
}

/// `1 / √(mean + eps)` of a row from the sums of squares of its units; every unit of the cube takes part.
#[cube]
pub fn scale<N: Size>(squares: Vector<f32, N>, width: usize, eps: f32, #[comptime] share: Share) -> f32 {
    let lanes = N::value().comptime();
    1.0f32 / (total(squares, share) / f32::cast_from((width * lanes) as u32) + eps).sqrt()
}

/// The norm of each row, written in place of `x` if nobody else holds that.
///
/// # Shapes
/// `x` and the result: `[T, hidden]`; `weight`: f32 `[hidden]`; all contiguous.
pub(super) fn rms_norm<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>, eps: f32) -> CubeTensor<R> {
    let client = x.client.clone();
    let (rows, hidden, dtype) = (x.shape()[0], x.shape()[1], x.dtype);
    let lanes = lanes(dtype.size(), &[hidden]);
    let share = Share::new(hidden / lanes, plane(&client));
    let (out, out_arg) = output(&x, 0);
    // SAFETY: a unit's row is below `rows` and its vector below `hidden / lanes` wherever it reads or writes: past
    // the last row `UnitPlace::width` is 0. So it stays within the `rows · hidden` elements of `x` and `out` and the
    // `hidden` of `weight`. `held` and the shared memory have the lengths that `share` gives their indices. Where
    // `out` is `x`, each vector is read by the unit that writes it, before it does.
    unsafe {
        rms_norm_kernel::launch_unchecked::<R>(
            &client,
            spread(rows.div_ceil(share.rows)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            array(x),
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

/// `x + y` and its norm, written in place of `x` and `y` if nobody else holds those.
///
/// # Shapes
/// `x`, `y` and the results: `[T, hidden]`; `weight`: f32 `[hidden]`; all contiguous.
pub(super) fn add_rms_norm<R: CubeRuntime>(
    [x, y]: [CubeTensor<R>; 2],
    weight: CubeTensor<R>,
    eps: f32,
) -> [CubeTensor<R>; 2] {
    let client = x.client.clone();
    let (rows, hidden, dtype) = (x.shape()[0], x.shape()[1], x.dtype);
    let lanes = lanes(dtype.size(), &[hidden]);
    let share = Share::new(hidden / lanes, plane(&client));
    let ((sum, sum_arg), (out, out_arg)) = (output(&x, 0), output(&y, 1));
    // SAFETY: as in `rms_norm`; `y` and `sum` are as large as `x`. Where `sum` is `x` or `out` is `y`, each vector
    // is read by the unit that writes it, before it does; both are never one buffer, for then each is held twice.
    unsafe {
        add_rms_norm_kernel::launch_unchecked::<R>(
            &client,
            spread(rows.div_ceil(share.rows)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            array(x),
            array(y),
            array(weight),
            sum_arg,
            out_arg,
            rows,
            hidden / lanes,
            eps,
            share,
            dtype.into(),
        );
    }
    [sum, out]
}
