//! Codes → bf16, through a table of what each code stands for.

use std::arch::x86_64::*;

use half::bf16;

use super::super::{LevelsView, WeightView};
use crate::kernels::packed::get_code;

/// One row of codes → what the scale multiplies, as bf16 pairs. Integers up to 255 are exact; the entries
/// of a codebook are rounded.
pub(super) fn unpack_row(weight: &WeightView<'_>, codes: &[u32], group: usize, out: &mut [u32]) {
    let group_pairs = weight.group_size / 2;
    let bits = |value: f32| bf16::from_f32(value).to_bits();
    let mut table = [0u16; 256];
    let fill = |table: &mut [u16; 256], zero: f32| {
        (0..1 << weight.bits).for_each(|code| table[code] = bits(code as f32 - zero));
    };
    match weight.levels {
        LevelsView::Zero(zero) => fill(&mut table, zero),
        LevelsView::Minimum(_) => fill(&mut table, 0.0),
        LevelsView::Codebook(codebook) => {
            table.iter_mut().zip(codebook).for_each(|(entry, level)| *entry = bits(*level));
        }
        LevelsView::Zeros(zeros) => {
            for (g, out) in out.chunks_mut(group_pairs).enumerate() {
                fill(&mut table, f32::from(zeros[group + g]));
                lookup(codes, weight.bits, g * weight.group_size, &table, out);
            }
            return;
        }
    }
    lookup(codes, weight.bits, 0, &table, out);
}

/// Codes from number `first` on, through the table.
fn lookup(codes: &[u32], bits: u32, first: usize, table: &[u16; 256], out: &mut [u32]) {
    let vectors = out.len() / 16;
    let (head, tail) = out.split_at_mut(if bits == 4 && first.is_multiple_of(8) { vectors * 16 } else { 0 });
    // SAFETY: `is_possible` saw every feature that `lookup4` is compiled for.
    unsafe { lookup4(&codes[(first / 8).min(codes.len())..], table, head) };
    let first = first + 2 * head.len();
    for (i, out) in tail.iter_mut().enumerate() {
        let entry = |code: usize| u32::from(table[get_code(codes, code, bits) as usize & 255]);
        *out = entry(first + 2 * i) | entry(first + 2 * i + 1) << 16;
    }
}

/// 4-bit codes, 32 at a time: four words are spread over the lanes, two nibbles to each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn lookup4(words: &[u32], table: &[u16; 256], out: &mut [u32]) {
    let shifts = _mm512_setr_epi32(0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24);
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let (low, high) = (_mm512_set1_epi32(0x0f), _mm512_set1_epi32(0xf0));
    // SAFETY: 32 of the 256 entries are 64 bytes.
    let table = unsafe { _mm512_loadu_si512(table.as_ptr().cast()) };
    for (words, out) in words.chunks_exact(4).zip(out.chunks_exact_mut(16)) {
        // SAFETY: four words are 16 bytes.
        let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
        let words = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(words));
        let bytes = _mm512_srlv_epi32(words, shifts);
        // The low nibble indexes for the low half of a lane, the high nibble for the high half.
        let high_index = _mm512_slli_epi32::<12>(_mm512_and_si512(bytes, high));
        let index = _mm512_or_si512(_mm512_and_si512(bytes, low), high_index);
        let pairs = _mm512_permutexvar_epi16(index, table);
        // SAFETY: sixteen words are 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs) };
    }
}
