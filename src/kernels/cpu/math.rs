//! Functions of the kernels that the compiler can put into vector registers.

/// Elements of the widest vector register.
const LANES: usize = 16;

/// The dot product in sixteen partial sums, which vector registers can hold.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// `length` rounded up to whole registers of the widest kind.
pub(super) fn lanes(length: usize) -> usize {
    length.next_multiple_of(LANES)
}

#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// eˣ within 2 units in the last place, in operations that the compiler can put into vector registers;
/// coefficients of the Cephes library's `expf`. Below −87 it gives e⁻⁸⁷, a number just above 0.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Clamped to where 2ⁿ is a normal number; NaN passes both bounds.
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    // Adding and subtracting 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    // `n` lies in −126 ..= 127 after the bounds, or is NaN, which `as` makes 0.
    e * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// The bf16 nearest to `x`, ties to even, in the upper half of a word. The lower half has no meaning. NaN stays NaN.
#[inline(always)]
pub(super) fn round_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { bits | 0x0040_0000 } else { bits + (0x7fff + (bits >> 16 & 1)) }
}

/// Two numbers rounded to bf16, in one word.
#[inline(always)]
pub(super) fn bf16_pair(low: f32, high: f32) -> u32 {
    round_to_bf16(low) >> 16 | round_to_bf16(high) & 0xffff_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let error = (exp(x) / x.exp() - 1.0).abs();
            assert!(error < 3e-7, "exp({x}): {error:e}");
        }
        assert!(exp(-1e30) < 2e-38 && exp(f32::NAN).is_nan());
    }
}
