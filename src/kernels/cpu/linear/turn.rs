//! Turns a square of weights so that its columns lie in the lanes, and its rows become words to contract.

use super::arithmetic::Arithmetic;
use super::layout::LANES;
use super::transpose::transpose;

/// Turns `weights`, f32 `[columns][LANES rows]` with at most `LANES` columns, into `turned`: words of one row, or of the
/// bf16 of two neighbouring rows, `[words][LANES columns]`. Lanes without a column become 0.
pub(super) fn turn(arithmetic: Arithmetic, weights: &[[u32; LANES]], turned: &mut [[u32; LANES]]) {
    assert!(weights.len() <= LANES && turned.len() == LANES / arithmetic.features());
    if arithmetic.features() == 1 {
        transpose(weights.as_flattened(), LANES, weights.len(), turned);
        return;
    }
    let mut rounded = [[0u32; LANES / 2]; LANES];
    #[cfg(target_arch = "x86_64")]
    for (words, weights) in rounded.iter_mut().zip(weights) {
        // SAFETY: only an `Arithmetic` with these instructions has words of two features.
        unsafe { round(weights, words) };
    }
    transpose(rounded[..weights.len()].as_flattened(), LANES / 2, weights.len(), turned);
}

/// Rounds f32 to bf16, two neighbours to a word.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(weights: &[u32; LANES], words: &mut [u32; LANES / 2]) {
    use std::arch::x86_64::*;
    // SAFETY: sixteen words from 0 and from 16 on are inside LANES, and sixteen words fill `words`.
    unsafe {
        let at = weights.as_ptr().cast::<f32>();
        let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(at.add(16)), _mm512_loadu_ps(at));
        _mm512_storeu_si512(words.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(pairs));
    }
}
