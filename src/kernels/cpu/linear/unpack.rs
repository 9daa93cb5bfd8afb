//! Unpacking of a slice: codes become words, with the rows of a unit side by side.

use super::super::math::bf16_pair;
use super::super::multiversion::multiversion;
use super::codebook::CodebookWords;
use super::codes::SliceCodes;
use super::layout::{LANES, runs};

multiversion! {
    /// Writes f32 weights, scaled for each part: `[parts][words]`.
    pub(super) fn unpack_f32(slice: &SliceCodes<'_>, words: usize, out: &mut [[u32; LANES]]) => unpack_f32_body;
}

multiversion! {
    /// Writes pairs of levels in bf16, not scaled: `[words]`.
    pub(super) fn unpack_bf16(slice: &SliceCodes<'_>, out: &mut [[u32; LANES]]) => unpack_bf16_body;
}

multiversion! {
    /// Writes pairs of weights, scaled and rounded to bf16: `[words]`.
    pub(super) fn unpack_scaled_bf16(
        slice: &SliceCodes<'_>,
        out: &mut [[u32; LANES]],
    ) => unpack_scaled_bf16_body;
}

multiversion! {
    /// [`unpack_f32`] with a codebook.
    pub(super) fn look_up_f32(
        slice: &SliceCodes<'_>,
        codebook: &CodebookWords<'_>,
        words: usize,
        out: &mut [[u32; LANES]],
    ) => look_up_f32_body;
}

multiversion! {
    /// [`unpack_bf16`] with a codebook.
    pub(super) fn look_up_bf16(
        slice: &SliceCodes<'_>,
        codebook: &CodebookWords<'_>,
        out: &mut [[u32; LANES]],
    ) => look_up_bf16_body;
}

multiversion! {
    /// [`unpack_scaled_bf16`] with a codebook of words of one feature.
    pub(super) fn look_up_scaled_bf16(
        slice: &SliceCodes<'_>,
        codebook: &CodebookWords<'_>,
        out: &mut [[u32; LANES]],
    ) => look_up_scaled_bf16_body;
}

#[inline(always)]
fn unpack_f32_body(slice: &SliceCodes<'_>, words: usize, out: &mut [[u32; LANES]]) {
    let first = slice.first;
    for (part, out) in out.chunks_exact_mut(words).enumerate() {
        let mut word = 0;
        for (group, length) in runs(first, words, slice.group_words) {
            let shift = slice.scales.shift(group);
            let (scales, offsets) = slice.scales.part(part, group);
            let (scale, offset) = (scales[0], offsets.map_or([0.0; LANES], |offsets| offsets[0]));
            for (word, out) in (word..word + length).zip(&mut out[word..word + length]) {
                let level = level(slice, first + word, shift);
                for i in 0..LANES {
                    out[i] = (level[i] * scale[i] + offset[i]).to_bits();
                }
            }
            word += length;
        }
    }
}

#[inline(always)]
fn unpack_bf16_body(slice: &SliceCodes<'_>, out: &mut [[u32; LANES]]) {
    let first = slice.first;
    let mut word = 0;
    for (group, length) in runs(first, out.len(), slice.group_words) {
        let shift = slice.scales.shift(group);
        for word in word..word + length {
            let feature = 2 * (first + word);
            let (low, high) = (level(slice, feature, shift), level(slice, feature + 1, shift));
            let out = &mut out[word];
            // Exact: the levels have no more bits than bf16 keeps.
            for i in 0..LANES {
                out[i] = low[i].to_bits() >> 16 | high[i].to_bits() & 0xffff_0000;
            }
        }
        word += length;
    }
}

#[inline(always)]
fn unpack_scaled_bf16_body(slice: &SliceCodes<'_>, out: &mut [[u32; LANES]]) {
    let first = slice.first;
    let mut word = 0;
    for (group, length) in runs(first, out.len(), slice.group_words) {
        let shift = slice.scales.shift(group);
        let (scales, offsets) = slice.scales.part(0, group);
        let (scale, offset) = (scales[0], offsets.map_or([0.0; LANES], |offsets| offsets[0]));
        for word in word..word + length {
            let feature = 2 * (first + word);
            let (low, high) = (level(slice, feature, shift), level(slice, feature + 1, shift));
            let out = &mut out[word];
            for i in 0..LANES {
                out[i] = bf16_pair(low[i] * scale[i] + offset[i], high[i] * scale[i] + offset[i]);
            }
        }
        word += length;
    }
}

/// Looks up each word once for all parts, as the look-up takes most of the time.
#[inline(always)]
fn look_up_f32_body(
    slice: &SliceCodes<'_>,
    codebook: &CodebookWords<'_>,
    words: usize,
    out: &mut [[u32; LANES]],
) {
    for word in 0..words {
        let at = slice.first + word;
        let level = codebook.word(slice, at);
        for part in 0..out.len() / words {
            let scale = &slice.scales.part(part, at / slice.group_words).0[0];
            let out = &mut out[part * words + word];
            for i in 0..LANES {
                out[i] = (f32::from_bits(level[i]) * scale[i]).to_bits();
            }
        }
    }
}

#[inline(always)]
fn look_up_bf16_body(slice: &SliceCodes<'_>, codebook: &CodebookWords<'_>, out: &mut [[u32; LANES]]) {
    for (word, out) in out.iter_mut().enumerate() {
        *out = codebook.word(slice, slice.first + word);
    }
}

#[inline(always)]
fn look_up_scaled_bf16_body(slice: &SliceCodes<'_>, codebook: &CodebookWords<'_>, out: &mut [[u32; LANES]]) {
    for (word, out) in (slice.first..).zip(out) {
        let (low, high) = (codebook.word(slice, 2 * word), codebook.word(slice, 2 * word + 1));
        let scale = &slice.scales.part(0, word / slice.group_words).0[0];
        for i in 0..LANES {
            out[i] = bf16_pair(f32::from_bits(low[i]) * scale[i], f32::from_bits(high[i]) * scale[i]);
        }
    }
}

#[inline(always)]
fn level(slice: &SliceCodes<'_>, feature: usize, shift: &[f32; LANES]) -> [f32; LANES] {
    let code = slice.code(feature, slice.bits);
    let mut level = [0f32; LANES];
    for i in 0..LANES {
        level[i] = code[i] as i32 as f32 + shift[i];
    }
    level
}
