//! `y = x · Wᵀ` in panels: some rows of the weight are unpacked into a buffer that stays in the second
//! level cache and multiplied at once, so the weight never exists in full.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

use super::columns::Columns;
use super::{WeightView, rows_per_task, unpack};
use crate::zo::perturbation::Noise;

/// Floats in an unpacked panel: 256 KiB.
const PANEL: usize = 64 * 1024;

/// # Shapes
/// `x`: `[T, in_features]`, `y`: `[T, out_features]`, both row-major f32.
pub(super) fn packed_linear(
    x: &[f32],
    weight: &WeightView<'_>,
    perturbation: Option<(u32, Noise)>,
    y: &mut [f32],
) {
    let (n, k) = (weight.out_features, weight.in_features);
    let m = x.len() / k;
    debug_assert_eq!(y.len(), m * n);
    let rows = rows_per_task(n, (PANEL / k).clamp(16, 256), 16);
    let y = Columns::new(y);
    (0..n.div_ceil(rows)).into_par_iter().for_each_init(
        || vec![0f32; rows * k],
        |panel, index| {
            let first = index * rows;
            let width = rows.min(n - first);
            let panel = &mut panel[..width * k];
            unpack::unpack_rows(weight, perturbation, first, panel);
            // SAFETY: `x` is m × k and `panel` width × k, both row-major and whole. The product covers
            // columns first .. first + width of the m × n matrix `y`, inside its allocation, and no
            // other task has this `index`, so no two tasks write the same column.
            unsafe {
                gemm(
                    m,
                    width,
                    k,
                    y.column(first),
                    1,
                    n as isize,
                    false,
                    x.as_ptr(),
                    1,
                    k as isize,
                    panel.as_ptr(),
                    k as isize,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        },
    );
}
