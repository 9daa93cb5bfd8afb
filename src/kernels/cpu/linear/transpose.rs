//! Transposition of rows into lanes.

use bytemuck::Pod;

use super::layout::LANES;

/// Transposes `width` rows, `stride` words apart, into as many columns as `out` holds; lanes from `width` on become 0.
pub(super) fn transpose<T: Pod>(rows: &[T], stride: usize, width: usize, out: &mut [[T; LANES]]) {
    let (rows, out): (&[u32], &mut [[u32; LANES]]) =
        (bytemuck::cast_slice(rows), bytemuck::cast_slice_mut(out));
    assert!(width <= LANES && out.len() <= stride && rows.len() + stride >= width * stride + out.len());
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the line above saw the instructions, the assertion every word that is read.
        return unsafe { avx512::transpose(rows, stride, width, out) };
    }
    if width < LANES {
        out.fill([0; LANES]);
    }
    for lane in 0..width {
        for (out, word) in out.iter_mut().zip(&rows[lane * stride..]) {
            out[lane] = *word;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::layout::LANES;

    /// Transposes like the function above, in registers.
    ///
    /// # Safety
    /// Each of the `width ≤ LANES` rows holds as many words as `out` has columns.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(rows: &[u32], stride: usize, width: usize, out: &mut [[u32; LANES]]) {
        for first in (0..LANES).step_by(16) {
            let count = width.saturating_sub(first).min(16);
            for (block, out) in out.chunks_mut(16).enumerate() {
                let mask = (u32::MAX >> (32 - out.len())) as u16;
                let mut square = [_mm512_setzero_si512(); 16];
                for (i, row) in square.iter_mut().enumerate().take(count) {
                    // SAFETY: row first + i < width; no word beyond the last column is touched.
                    *row = unsafe {
                        let at = rows.as_ptr().add((first + i) * stride + 16 * block);
                        _mm512_maskz_loadu_epi32(mask, at.cast())
                    };
                }
                for (column, out) in transpose_square(square).into_iter().zip(out) {
                    // SAFETY: sixteen words from `first` on are inside the column's LANES.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(first).cast(), column) };
                }
            }
        }
    }

    /// Transposes sixteen registers of sixteen words.
    #[target_feature(enable = "avx512f")]
    fn transpose_square(r: [__m512i; 16]) -> [__m512i; 16] {
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
}
