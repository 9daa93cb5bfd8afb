//! Codes of a slice → words, the rows of a unit side by side.

use super::super::multiversion;
use super::codebook::Codebook;
use super::values::Values;
use super::{LANES, SLICE, runs};

multiversion! {
    /// f32 weights, scaled for each part: `[parts][words]`.
    pub(super) fn unpack_f32(slice: &Codes<'_>, words: usize, out: &mut [[u32; LANES]]) => unpack_f32_body;
}

multiversion! {
    /// Pairs of levels in bf16, not scaled: `[words]`.
    pub(super) fn unpack_bf16(slice: &Codes<'_>, out: &mut [[u32; LANES]]) => unpack_bf16_body;
}

multiversion! {
    /// [`unpack_f32`] of what a codebook gives.
    pub(super) fn look_up_f32(
        slice: &Codes<'_>,
        codebook: &Codebook<'_>,
        words: usize,
        out: &mut [[u32; LANES]],
    ) => look_up_f32_body;
}

multiversion! {
    /// [`unpack_bf16`] of what a codebook gives.
    pub(super) fn look_up_bf16(
        slice: &Codes<'_>,
        codebook: &Codebook<'_>,
        out: &mut [[u32; LANES]],
    ) => look_up_bf16_body;
}

/// The codes of one slice.
pub(super) struct Codes<'a> {
    /// `[words of codes]`
    pub codes: &'a [[u32; LANES]],
    /// Of the row, the first in `codes`.
    pub first_bit: usize,
    pub bits: u32,
    /// See [`runs`].
    pub slice: usize,
    pub group_words: usize,
    pub values: &'a Values,
}

impl Codes<'_> {
    /// Code number `index` of each row.
    #[inline(always)]
    pub fn code(&self, index: usize, bits: u32) -> [u32; LANES] {
        let bit = index * bits as usize - self.first_bit;
        let (word, low, mask) = (bit / 32, (bit % 32) as u32, u32::MAX >> (32 - bits));
        let codes = &self.codes[word];
        let mut code = [0u32; LANES];
        for i in 0..LANES {
            code[i] = codes[i] >> low;
        }
        if low + bits > 32 {
            let next = &self.codes[word + 1];
            for i in 0..LANES {
                code[i] |= next[i] << (32 - low);
            }
        }
        for code in &mut code {
            *code &= mask;
        }
        code
    }
}

#[inline(always)]
fn unpack_f32_body(slice: &Codes<'_>, words: usize, out: &mut [[u32; LANES]]) {
    let first = slice.slice * SLICE;
    for (part, out) in out.chunks_exact_mut(words).enumerate() {
        let mut word = 0;
        for (group, length) in runs(slice.slice, words, slice.group_words) {
            let shift = slice.values.shift(group);
            let (scales, offsets) = slice.values.part(part, group);
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
fn unpack_bf16_body(slice: &Codes<'_>, out: &mut [[u32; LANES]]) {
    let first = slice.slice * SLICE;
    let mut word = 0;
    for (group, length) in runs(slice.slice, out.len(), slice.group_words) {
        let shift = slice.values.shift(group);
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

/// Looked up once for all parts: that is what takes the time.
#[inline(always)]
fn look_up_f32_body(slice: &Codes<'_>, codebook: &Codebook<'_>, words: usize, out: &mut [[u32; LANES]]) {
    for word in 0..words {
        let at = slice.slice * SLICE + word;
        let level = codebook.word(slice, at);
        for part in 0..out.len() / words {
            let scale = &slice.values.part(part, at / slice.group_words).0[0];
            let out = &mut out[part * words + word];
            for i in 0..LANES {
                out[i] = (f32::from_bits(level[i]) * scale[i]).to_bits();
            }
        }
    }
}

#[inline(always)]
fn look_up_bf16_body(slice: &Codes<'_>, codebook: &Codebook<'_>, out: &mut [[u32; LANES]]) {
    for (word, out) in out.iter_mut().enumerate() {
        *out = codebook.word(slice, slice.slice * SLICE + word);
    }
}

#[inline(always)]
fn level(slice: &Codes<'_>, feature: usize, shift: &[f32; LANES]) -> [f32; LANES] {
    let code = slice.code(feature, slice.bits);
    let mut level = [0f32; LANES];
    for i in 0..LANES {
        level[i] = code[i] as i32 as f32 + shift[i];
    }
    level
}
