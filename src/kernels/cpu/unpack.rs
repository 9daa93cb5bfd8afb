//! Packed rows → f32 rows, with the scale already perturbed.

use super::{LevelsView, WeightView, multiversion, noise};
use crate::kernels::packed::{get_code, words_per_row};
use crate::zo::perturbation::Noise;

multiversion! {
    /// Rows `first ..` of the weight into `out`, `[rows, in_features]` row-major.
    pub(super) fn unpack_rows(
        weight: &WeightView<'_>,
        perturbation: Option<(u32, Noise)>,
        first: usize,
        out: &mut [f32],
    ) => unpack_rows_body;
}

#[inline(always)]
fn unpack_rows_body(
    weight: &WeightView<'_>,
    perturbation: Option<(u32, Noise)>,
    first: usize,
    out: &mut [f32],
) {
    let groups = weight.in_features.div_ceil(weight.group_size);
    let words = words_per_row(weight.in_features, weight.bits);
    let mut scales = vec![0f32; groups];
    let mut k = vec![0i32; groups];
    for (row, out) in out.chunks_exact_mut(weight.in_features).enumerate() {
        let row = first + row;
        scales.copy_from_slice(&weight.scales[row * groups..][..groups]);
        if let Some((parameter, noise)) = perturbation {
            noise::fill_body(noise, parameter, (row * groups) as u32, &mut k);
            for (s, k) in scales.iter_mut().zip(&k) {
                *s = noise.apply(*s, *k);
            }
        }
        let codes = &weight.codes[row * words..][..words];
        decode(codes, weight.bits, out);
        for (group, out) in out.chunks_mut(weight.group_size).enumerate() {
            scale_group(weight.levels, row * groups + group, scales[group], out);
        }
    }
}

/// Codes as floats, one after another.
#[inline(always)]
fn decode(words: &[u32], bits: u32, out: &mut [f32]) {
    match bits {
        2 => decode_words::<2>(words, out),
        4 => decode_words::<4>(words, out),
        8 => decode_words::<8>(words, out),
        _ => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = get_code(words, i, bits) as f32;
            }
        }
    }
}

#[inline(always)]
fn decode_words<const BITS: u32>(words: &[u32], out: &mut [f32]) {
    let per_word = (32 / BITS) as usize;
    for (word, out) in words.iter().zip(out.chunks_mut(per_word)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = ((word >> (BITS * i as u32)) & (u32::MAX >> (32 - BITS))) as i32 as f32;
        }
    }
}

/// `scale · level(code)`, in place.
#[inline(always)]
fn scale_group(levels: LevelsView<'_>, group: usize, scale: f32, out: &mut [f32]) {
    match levels {
        LevelsView::Zero(zero) => out.iter_mut().for_each(|w| *w = scale * (*w - zero)),
        LevelsView::Zeros(zeros) => {
            let zero = f32::from(zeros[group]);
            out.iter_mut().for_each(|w| *w = scale * (*w - zero));
        }
        LevelsView::Minimum(minimum) if scale == 0.0 => out.fill(minimum[group]),
        LevelsView::Minimum(minimum) => {
            let minimum = minimum[group];
            out.iter_mut().for_each(|w| *w = scale * (*w + minimum));
        }
        LevelsView::Codebook(codebook) => {
            out.iter_mut().for_each(|w| *w = scale * codebook[*w as usize & (codebook.len() - 1)]);
        }
    }
}
