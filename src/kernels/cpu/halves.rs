//! Conversion between f32 and the 16-bit floats, in operations that the compiler can put into vector registers.

use half::{bf16, f16};

use super::math::round_to_bf16;
use super::multiversion::multiversion;
use super::results::by_chunks;

/// Elements per task.
const BLOCK: usize = 8192;

/// `x` rounded to the nearest bf16, on all threads.
pub(super) fn narrow(x: &[f32]) -> Vec<bf16> {
    by_chunks(x.len(), BLOCK, |block, y: &mut [bf16]| {
        narrow_bf16(&x[block * BLOCK..][..y.len()], bytemuck::cast_slice_mut(y));
    })
}

/// `x` as f32, on all threads.
pub(super) fn widen(x: &[bf16]) -> Vec<f32> {
    by_chunks(x.len(), BLOCK, |block, y| widen_bf16(&x[block * BLOCK..][..y.len()], y))
}

multiversion! {
    /// The bits of the bf16 nearest to each element of `x`.
    pub(super) fn narrow_bf16(x: &[f32], y: &mut [u16]) => narrow_bf16_body;
}

#[inline(always)]
fn narrow_bf16_body(x: &[f32], y: &mut [u16]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = (round_to_bf16(*x) >> 16) as u16);
}

multiversion! {
    pub(super) fn widen_bf16(x: &[bf16], y: &mut [f32]) => widen_bf16_body;
}

#[inline(always)]
fn widen_bf16_body(x: &[bf16], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = f32::from_bits(u32::from(x.to_bits()) << 16));
}

multiversion! {
    pub(super) fn widen_f16(x: &[f16], y: &mut [f32]) => widen_f16_body;
}

#[inline(always)]
fn widen_f16_body(x: &[f16], y: &mut [f32]) {
    // The exponents of the types differ by 127 − 15, so that a product moves the one into the other, subnormal numbers
    // included.
    const SHIFT: f32 = f32::from_bits((127 + 127 - 15) << 23);
    const EXPONENT: u32 = 0xff << 23;
    for (y, x) in y.iter_mut().zip(x) {
        let bits = u32::from(x.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let wide = (f32::from_bits(magnitude) * SHIFT).to_bits();
        let is_finite = magnitude < 0x1f << 23;
        let wide = if is_finite { wide } else { wide | EXPONENT };
        *y = f32::from_bits(wide | (bits & 0x8000) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_float_is_widened_as_half_does() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let (f16s, bf16s): (&[f16], &[bf16]) = (bytemuck::cast_slice(&all), bytemuck::cast_slice(&all));
        let mut wide = vec![0.0; all.len()];
        widen_f16(f16s, &mut wide);
        for (x, wide) in f16s.iter().zip(&wide) {
            assert!(x.to_f32().to_bits() == wide.to_bits() || x.is_nan() && wide.is_nan(), "{x:?}: {wide}");
        }
        for (x, wide) in bf16s.iter().zip(widen(bf16s)) {
            assert!(x.to_bits() == (wide.to_bits() >> 16) as u16, "{x:?}: {wide}");
        }
    }

    #[test]
    fn rounding_agrees_with_half() {
        let of_high = |high: u16| {
            [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(u32::from(high) << 16 | low))
        };
        let x: Vec<f32> = (0..=u16::MAX).flat_map(of_high).collect();
        for (x, got) in x.iter().zip(narrow(&x)) {
            assert_eq!(got.to_bits(), bf16::from_f32(*x).to_bits(), "{x:e}");
        }
    }
}
