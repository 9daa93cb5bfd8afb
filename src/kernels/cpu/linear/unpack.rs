//! Codes of a slice → words, the rows of a unit side by side.

use half::bf16;

use super::super::multiversion;
use super::values::Values;
use super::{LANES, runs};

multiversion! {
    /// f32 weights, scaled for each part: `[parts][words]`.
    pub(super) fn unpack_f32(slice: &Codes<'_>, words: usize, out: &mut [[u32; LANES]]) => unpack_f32_body;
}

multiversion! {
    /// Pairs of levels in bf16, not scaled: `[words]`.
    pub(super) fn unpack_bf16(slice: &Codes<'_>, out: &mut [[u32; LANES]]) => unpack_bf16_body;
}

/// The codes of one slice.
pub(super) struct Codes<'a> {
    /// `[words of codes]`
    pub codes: &'a [[u32; LANES]],
    pub bits: u32,
    /// See [`runs`].
    pub slice: usize,
    pub group_words: usize,
    pub codebook: Option<&'a [f32; 256]>,
    pub values: &'a Values,
}

/// What each code stands for, where that is not the code itself.
pub(super) type Codebook = Box<[f32; 256]>;

/// Rounded where words hold bf16.
pub(super) fn codebook(levels: &[f32], features: usize) -> Codebook {
    let mut codebook = Box::new([0.0; 256]);
    for (entry, level) in codebook.iter_mut().zip(levels) {
        *entry = if features == 1 { *level } else { bf16::from_f32(*level).to_f32() };
    }
    codebook
}

#[inline(always)]
fn unpack_f32_body(slice: &Codes<'_>, words: usize, out: &mut [[u32; LANES]]) {
    for (part, out) in out.chunks_exact_mut(words).enumerate() {
        let mut word = 0;
        for (group, length) in runs(slice.slice, words, slice.group_words) {
            let shift = slice.values.shift(group);
            let (scales, offsets) = slice.values.part(part, group);
            let (scale, offset) = (scales[0], offsets.map_or([0.0; LANES], |offsets| offsets[0]));
            for (word, out) in (word..word + length).zip(&mut out[word..word + length]) {
                let level = level(slice, word, shift);
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
    let mut word = 0;
    for (group, length) in runs(slice.slice, out.len(), slice.group_words) {
        let shift = slice.values.shift(group);
        for word in word..word + length {
            let (low, high) = (level(slice, 2 * word, shift), level(slice, 2 * word + 1, shift));
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
fn level(slice: &Codes<'_>, feature: usize, shift: &[f32; LANES]) -> [f32; LANES] {
    let bit = feature * slice.bits as usize;
    let (word, low, mask) = (bit / 32, (bit % 32) as u32, u32::MAX >> (32 - slice.bits));
    let codes = &slice.codes[word];
    let mut code = [0u32; LANES];
    for i in 0..LANES {
        code[i] = codes[i] >> low;
    }
    if low + slice.bits > 32 {
        let next = &slice.codes[word + 1];
        for i in 0..LANES {
            code[i] |= next[i] << (32 - low);
        }
    }
    let mut level = [0f32; LANES];
    match slice.codebook {
        None => {
            for i in 0..LANES {
                level[i] = (code[i] & mask) as i32 as f32 + shift[i];
            }
        }
        Some(codebook) => {
            for i in 0..LANES {
                level[i] = codebook[(code[i] & mask & 255) as usize];
            }
        }
    }
    level
}
