//! Activations on their way into the lanes: rounded to bf16, tokens side by side.

use std::arch::x86_64::*;

use half::bf16;
use rayon::prelude::*;

use super::{LANES, as_bf16};

/// Up to `LANES` tokens, rounded to bf16; lanes without a token hold zeros.
pub(super) struct Panel {
    pub tokens: usize,
    /// `[in / 2][LANES]` pairs
    pub pairs: Vec<u32>,
    /// `[groups][LANES]`: sum of each group's activations, where a minimum is added to every weight of it.
    pub sums: Vec<f32>,
}

impl Panel {
    pub fn new(x: &[f32], k: usize, group_size: usize, sums: bool) -> Self {
        /// Pairs per task: enough work to outweigh handing it over.
        const SHARE: usize = 256;
        let mut pairs = vec![0u32; k / 2 * LANES];
        pairs.par_chunks_mut(SHARE * LANES).enumerate().for_each(|(share, pairs)| {
            // SAFETY: `is_possible` saw every feature that `round_columns` is compiled for.
            unsafe { round_columns(x, k, share * SHARE, pairs) };
        });
        let mut totals = vec![0f32; if sums { k.div_ceil(group_size) * LANES } else { 0 }];
        if sums {
            // SAFETY: as above.
            unsafe { sum_groups(&pairs, group_size / 2, &mut totals) };
        }
        Self { tokens: x.len() / k, pairs, sums: totals }
    }
}

/// Rounds the pairs from `first` on of every token to bf16 and puts them side by side: `[pairs][LANES]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn round_columns(x: &[f32], k: usize, first: usize, out: &mut [u32]) {
    let count = out.len() / LANES;
    let whole = count / 16 * 16;
    for (block, tokens) in x.chunks(16 * k).enumerate() {
        for column in (0..whole).step_by(16) {
            let mut square = [_mm512_setzero_si512(); 16];
            for (row, x) in square.iter_mut().zip(tokens.chunks_exact(k)) {
                let x = &x[2 * (first + column)..][..32];
                // SAFETY: the slice above holds 32 floats.
                let (low, high) =
                    unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
                let pairs = _mm512_cvtne2ps_pbh(high, low);
                // SAFETY: both are 512 bits without invalid values.
                *row = unsafe { std::mem::transmute::<__m512bh, __m512i>(pairs) };
            }
            for (i, row) in transpose(square).into_iter().enumerate() {
                let out = &mut out[(column + i) * LANES + 16 * block..][..16];
                // SAFETY: the slice above holds sixteen words.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), row) };
            }
        }
        for (lane, x) in tokens.chunks_exact(k).enumerate() {
            for column in whole..count {
                let bits = |v: f32| u32::from(bf16::from_f32(v).to_bits());
                let at = 2 * (first + column);
                out[column * LANES + 16 * block + lane] = bits(x[at]) | bits(x[at + 1]) << 16;
            }
        }
    }
}

/// The sum of each group's rounded activations: the product with a row of ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn sum_groups(pairs: &[u32], group_pairs: usize, sums: &mut [f32]) {
    // Two ones in bf16.
    let ones = as_bf16(_mm512_set1_epi32(0x3f80_3f80));
    for (pairs, sums) in pairs.chunks(group_pairs * LANES).zip(sums.chunks_exact_mut(LANES)) {
        for (j, sums) in sums.chunks_exact_mut(16).enumerate() {
            let mut acc = _mm512_setzero_ps();
            for pair in pairs.chunks_exact(LANES) {
                let x = &pair[16 * j..][..16];
                // SAFETY: the slice above holds sixteen words.
                acc = _mm512_dpbf16_ps(acc, as_bf16(unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }), ones);
            }
            // SAFETY: a chunk of sixteen floats.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), acc) };
        }
    }
}

/// Sixteen registers of sixteen words, rows and columns exchanged.
#[target_feature(enable = "avx512f")]
fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = r;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut b = a;
    for g in (0..16).step_by(4) {
        b[g] = _mm512_unpacklo_epi64(a[g], a[g + 2]);
        b[g + 1] = _mm512_unpackhi_epi64(a[g], a[g + 2]);
        b[g + 2] = _mm512_unpacklo_epi64(a[g + 1], a[g + 3]);
        b[g + 3] = _mm512_unpackhi_epi64(a[g + 1], a[g + 3]);
    }
    // Quarter q of b[4·g + j] now holds column 4·q + j of rows 4·g .. 4·g + 4.
    let mut c = b;
    for j in 0..4 {
        let even = |x, y| _mm512_shuffle_i32x4::<0x88>(x, y);
        let odd = |x, y| _mm512_shuffle_i32x4::<0xdd>(x, y);
        let (low_even, low_odd) = (even(b[j], b[4 + j]), odd(b[j], b[4 + j]));
        let (high_even, high_odd) = (even(b[8 + j], b[12 + j]), odd(b[8 + j], b[12 + j]));
        c[j] = even(low_even, high_even);
        c[8 + j] = odd(low_even, high_even);
        c[4 + j] = even(low_odd, high_odd);
        c[12 + j] = odd(low_odd, high_odd);
    }
    c
}
