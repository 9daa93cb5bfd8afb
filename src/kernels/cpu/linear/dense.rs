//! `Y = X · Wᵀ` for a dense weight in the type in which it is stored, and its backward pass, `dX = dY · W`. A slice of a
//! unit at a time is widened to f32 and multiplied like an unpacked one.

use half::{bf16, f16};
use rayon::prelude::*;

use super::super::halves;
use super::super::results::Columns;
use super::arithmetic::Arithmetic;
use super::input::SlicedInput;
use super::layout::{LANES, SLICE, copy_row};
use super::operands::TileSlice;
use super::tile;
use super::transpose::transpose;

/// A float type of dense weights.
pub(in crate::kernels::cpu) trait StoredFloat: Copy + Sync {
    fn widen(from: &[Self], to: &mut [f32]);
}

impl StoredFloat for f32 {
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl StoredFloat for f16 {
    fn widen(from: &[Self], to: &mut [f32]) {
        halves::widen_f16(from, to);
    }
}

impl StoredFloat for bf16 {
    fn widen(from: &[Self], to: &mut [f32]) {
        halves::widen_bf16(from, to);
    }
}

/// The product, `[T, out_features]`.
///
/// # Shapes
/// `x`: `[T, in_features]`, `weight`: `[out_features, in_features]`.
pub(in crate::kernels::cpu) fn dense_linear<W: StoredFloat>(
    x: &[f32],
    weight: &[W],
    in_features: usize,
) -> Vec<f32> {
    if x.is_empty() {
        return vec![];
    }
    let arithmetic = Arithmetic::f32();
    let input = SlicedInput::new(x, in_features, arithmetic.features());
    let out_features = weight.len() / in_features;
    let y = Columns::new(input.tokens * out_features);
    weight.par_chunks(LANES * in_features).enumerate().for_each(|(unit, rows)| {
        let width = rows.len() / in_features;
        let mut sums = vec![[0f32; LANES]; input.tokens];
        let (mut wide, mut w) = ([0f32; LANES * SLICE], [[0u32; LANES]; SLICE]);
        for slice in 0..input.slices() {
            let length = input.length(slice);
            for (row, wide) in rows.chunks_exact(in_features).zip(wide.chunks_exact_mut(length)) {
                W::widen(&row[slice * SLICE..][..length], wide);
            }
            let (wide, w) = (&wide[..width * length], &mut w[..length]);
            transpose(bytemuck::cast_slice::<f32, u32>(wide), length, width, w);
            tile::multiply(
                arithmetic,
                &TileSlice { x: input.slice(slice), w, groups: None, adds: slice > 0, next: &[] },
                &mut sums,
            );
        }
        for (token, sums) in sums.iter().enumerate() {
            // SAFETY: row token < T and columns unit · LANES .. + width ≤ n of the T × n matrix `y`, which
            // are this unit's alone.
            let out = unsafe { y.part(token * out_features + unit * LANES, width) };
            copy_row(sums, out);
        }
    });
    // SAFETY: the units are all columns, and each wrote the rows of all tokens.
    unsafe { y.written() }
}

/// The gradient of the input, `[T, in_features]`: the rows are contracted, and the columns lie in the lanes.
///
/// # Shapes
/// `dy`: `[T, out_features]`, `weight`: `[out_features, in_features]`.
pub(in crate::kernels::cpu) fn dense_linear_backward<W: StoredFloat>(
    dy: &[f32],
    weight: &[W],
    in_features: usize,
) -> Vec<f32> {
    if dy.is_empty() {
        return vec![];
    }
    let arithmetic = Arithmetic::f32();
    let dy = SlicedInput::new(dy, weight.len() / in_features, arithmetic.features());
    let dx = Columns::new(dy.tokens * in_features);
    (0..in_features.div_ceil(LANES)).into_par_iter().for_each(|unit| {
        let first = unit * LANES;
        let width = LANES.min(in_features - first);
        let mut sums = vec![[0f32; LANES]; dy.tokens];
        let mut w = [[0u32; LANES]; SLICE];
        for (slice, rows) in weight.chunks(SLICE * in_features).enumerate() {
            let w = &mut w[..dy.length(slice)];
            for (row, w) in rows.chunks_exact(in_features).zip(w.iter_mut()) {
                W::widen(&row[first..first + width], &mut bytemuck::cast_slice_mut(w)[..width]);
            }
            tile::multiply(
                arithmetic,
                &TileSlice { x: dy.slice(slice), w, groups: None, adds: slice > 0, next: &[] },
                &mut sums,
            );
        }
        for (token, sums) in sums.iter().enumerate() {
            // SAFETY: row token < T and columns first .. first + width ≤ in_features of the T × in_features matrix
            // `dx`, which are this unit's alone.
            let out = unsafe { dx.part(token * in_features + first, width) };
            copy_row(sums, out);
        }
    });
    // SAFETY: the units are all columns, and each wrote the rows of all tokens.
    unsafe { dx.written() }
}
