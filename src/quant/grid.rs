//! Integer levels: `weight = scale · (code − zero)`, a scale and a zero point for each group.
//!
//! The formulas are those of the GPTQ reference code's `Quantizer.find_params` (Frantar et al. 2022,
//! <https://github.com/IST-DASLab/gptq>, `quant.py`), so results are interchangeable with other GPTQ tools;
//! its `mse` option searches a smaller range here too, by the squared error instead of its power 2.4, weighted
//! by the importance that calibration gives, and over zero points as well.
//! Arithmetic is f64 and ties round to even. The scale is rounded to the type the file will store *before*
//! codes are chosen, so that every code is the nearest one for the scale that is really used.

use crate::kernels::multiversion;
use crate::packed::FloatType;

/// Shares of the whole range that the search tries, in units of 1/50.
const SHARES: std::ops::Range<u32> = 25..50;

/// Distances from the zero point of the whole range that the search tries.
const ZEROS: std::ops::RangeInclusive<i64> = -1..=1;

/// Equally spaced levels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Bits per code: 2, 3, 4 or 8.
    pub bits: u32,
    /// One zero point 2^(bits−1) for all groups, else one per group.
    pub symmetric: bool,
    /// Search the range that gives the least squared error; else it spans all weights of the group.
    pub mse: bool,
    /// Type of the scales in the file.
    pub scale_dtype: FloatType,
}

/// Scale and zero point of a group: its weights are `scale · (code − zero)`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GroupScale {
    pub scale: f32,
    pub zero: u32,
}

impl Grid {
    /// Fits scale and zero point to a group. `importance`: the cost of an error in each weight, where that is known.
    ///
    /// # Errors
    /// A weight that is not finite, or a scale that `scale_dtype` cannot hold.
    pub fn fit(&self, weights: &[f64], importance: Option<&[f64]>) -> Result<GroupScale, String> {
        let [min, max, finite] = range(weights);
        if finite != 0.0
            && let Some(i) = weights.iter().position(|w| !w.is_finite())
        {
            return Err(format!("weight {i} of the group is {}", weights[i]));
        }
        let whole = self.spanning(min, max)?;
        match self.mse {
            true => self.search(weights, importance, whole),
            false => Ok(whole),
        }
    }

    /// Does the same as [`Self::fit`] where all errors cost the same.
    pub fn fit_floats(&self, weights: &[f32]) -> Result<GroupScale, String> {
        match range_of_floats(weights) {
            Some([min, max]) if !self.mse => self.spanning(min.into(), max.into()),
            _ => self.fit(&weights.iter().map(|w| f64::from(*w)).collect::<Vec<_>>(), None),
        }
    }

    /// The scale and zero point of least squared error, among ranges that are a share of the whole one.
    fn search(
        &self,
        weights: &[f64],
        importance: Option<&[f64]>,
        whole: GroupScale,
    ) -> Result<GroupScale, String> {
        let most = f64::from(self.max_code());
        let error = |group: GroupScale| -> f64 {
            let (scale, zero) = (f64::from(group.scale), f64::from(group.zero));
            squared_error(weights, importance, scale, zero, most) * scale.powi(2)
        };
        let (mut best, mut least) = (whole, error(whole));
        let zeros = if self.symmetric { 0..=0 } else { ZEROS };
        for share in SHARES {
            let scale = scale_as_stored(f64::from(whole.scale) * f64::from(share) / 50.0, self.scale_dtype)?;
            for shift in zeros.clone() {
                let zero = i64::from(whole.zero) + shift;
                let Ok(zero) = u32::try_from(zero) else { continue };
                if zero > self.max_code() {
                    continue;
                }
                let group = GroupScale { scale, zero };
                let now = error(group);
                if now < least {
                    (best, least) = (group, now);
                }
            }
        }
        Ok(best)
    }

    /// The scale and zero point whose range spans `min` to `max`.
    fn spanning(&self, mut min: f64, mut max: f64) -> Result<GroupScale, String> {
        if min == 0.0 && max == 0.0 {
            (min, max) = (-1.0, 1.0);
        }
        let max_code = f64::from(self.max_code());
        let exact = match self.symmetric {
            true => 2.0 * max.max(-min) / max_code,
            false => (max - min) / max_code,
        };
        let scale = scale_as_stored(exact, self.scale_dtype)?;
        let zero = match self.symmetric {
            true => 1 << (self.bits - 1),
            false => (-min / f64::from(scale)).round_ties_even().clamp(0.0, max_code) as u32,
        };
        Ok(GroupScale { scale, zero })
    }

    /// Writes the nearest code of each weight; `codes` has as many places as there are weights.
    pub fn codes(&self, weights: &[f32], group: GroupScale, codes: &mut [u8]) {
        assert_eq!(weights.len(), codes.len());
        let (scale, zero) = (f64::from(group.scale), f64::from(group.zero));
        nearest(weights, scale, zero, f64::from(self.max_code()), codes);
    }

    /// The nearest code of a weight.
    pub fn code(&self, weight: f64, group: GroupScale) -> u32 {
        let steps = (weight / f64::from(group.scale)).round_ties_even();
        (steps + f64::from(group.zero)).clamp(0.0, f64::from(self.max_code())) as u32
    }

    pub fn value(&self, code: u32, group: GroupScale) -> f64 {
        f64::from(group.scale) * (f64::from(code) - f64::from(group.zero))
    }

    fn max_code(&self) -> u32 {
        (1 << self.bits) - 1
    }
}

/// Number of parts that sums are added up in: the same on every machine, so that results are.
const LANES: usize = 8;

multiversion! {
    /// Minimum and maximum of the weights and 0, and a number that is 0 if all are finite.
    fn range(weights: &[f64]) -> [f64; 3] => range_body;
}

#[inline(always)]
fn range_body(weights: &[f64]) -> [f64; 3] {
    // The range always includes 0, so that a zero weight stays zero.
    let (mut min, mut max, mut finite) = ([0f64; LANES], [0f64; LANES], [0f64; LANES]);
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut take = |lane: usize, w: f64| {
        min[lane] = if w < min[lane] { w } else { min[lane] };
        max[lane] = if w > max[lane] { w } else { max[lane] };
        finite[lane] += w * 0.0;
    };
    for chunk in chunks {
        (0..LANES).for_each(|lane| take(lane, chunk[lane]));
    }
    rest.iter().enumerate().for_each(|(lane, &w)| take(lane, w));
    [min.into_iter().fold(0.0, f64::min), max.into_iter().fold(0.0, f64::max), finite.into_iter().sum()]
}

/// Minimum and maximum of the weights and 0; `None` where a weight is not finite.
fn range_of_floats(weights: &[f32]) -> Option<[f32; 2]> {
    let [largest, least] = extreme_bits(weights);
    const INFINITE: u32 = 0x7f80_0000;
    const SIGN: u32 = 0x8000_0000;
    match largest < INFINITE && (least < SIGN || least < SIGN | INFINITE) {
        true => Some([if least < SIGN { 0.0 } else { f32::from_bits(least) }, f32::from_bits(largest)]),
        false => None,
    }
}

multiversion! {
    /// The bits of the largest non-negative number, or 0; and the bits of the most negative number, where there is one.
    /// Read as signed integers, the bits of non-negative floats are ordered like the floats, and negative floats are
    /// below them. Read as unsigned integers, negative floats are above, ordered by magnitude. NaN is above infinity.
    fn extreme_bits(weights: &[f32]) -> [u32; 2] => extreme_bits_body;
}

#[inline(always)]
fn extreme_bits_body(weights: &[f32]) -> [u32; 2] {
    // More than one vector register, so that a comparison does not wait for the one before.
    const LANES: usize = 32;
    let (mut signed, mut unsigned) = ([0i32; LANES], [0u32; LANES]);
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut take = |lane: usize, w: f32| {
        signed[lane] = signed[lane].max(w.to_bits() as i32);
        unsigned[lane] = unsigned[lane].max(w.to_bits());
    };
    for chunk in chunks {
        (0..LANES).for_each(|lane| take(lane, chunk[lane]));
    }
    rest.iter().enumerate().for_each(|(lane, &w)| take(lane, w));
    [signed.into_iter().fold(0, i32::max) as u32, unsigned.into_iter().fold(0, u32::max)]
}

multiversion! {
    /// The squared error of the weights' nearest levels, in units of the squared scale.
    fn squared_error(
        weights: &[f64],
        importance: Option<&[f64]>,
        scale: f64,
        zero: f64,
        most: f64,
    ) -> f64 => squared_error_body;
}

#[inline(always)]
fn squared_error_body(weights: &[f64], importance: Option<&[f64]>, scale: f64, zero: f64, most: f64) -> f64 {
    let inverse = 1.0 / scale;
    let squared = |weight: f64| {
        let steps = weight * inverse;
        let level = (steps.round_ties_even() + zero).clamp(0.0, most) - zero;
        (steps - level) * (steps - level)
    };
    let mut sums = [0f64; LANES];
    let (chunks, rest) = weights.as_chunks::<LANES>();
    match importance {
        Some(importance) => {
            let (important, last) = importance.as_chunks::<LANES>();
            for (weights, importance) in chunks.iter().zip(important) {
                (0..LANES).for_each(|lane| sums[lane] += importance[lane] * squared(weights[lane]));
            }
            let last = rest.iter().zip(last);
            sums.iter_mut().zip(last).for_each(|(sum, (weight, i))| *sum += i * squared(*weight));
        }
        None => {
            for weights in chunks {
                (0..LANES).for_each(|lane| sums[lane] += squared(weights[lane]));
            }
            sums.iter_mut().zip(rest).for_each(|(sum, weight)| *sum += squared(*weight));
        }
    }
    sums.iter().sum()
}

multiversion! {
    /// Writes the nearest code of each weight, at most `most`.
    fn nearest(weights: &[f32], scale: f64, zero: f64, most: f64, codes: &mut [u8]) => nearest_body;
}

#[inline(always)]
fn nearest_body(weights: &[f32], scale: f64, zero: f64, most: f64, codes: &mut [u8]) {
    const LANES: usize = 32;
    // Products in f32 differ from the quotients by less than 2^-15 (below 2^8; larger ones are clamped), which decides
    // the nearest code of all but a few weights in ten thousand.
    const DECIDED: f32 = 0.5 - 1.0 / 16384.0;
    let inverse = (1.0 / scale) as f32;
    let (zero32, most32) = (zero as f32, most as f32);
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let (to, last) = codes.as_chunks_mut::<LANES>();
    for (codes, weights) in to.iter_mut().zip(chunks) {
        let mut undecided = !inverse.is_normal();
        for (code, weight) in codes.iter_mut().zip(weights) {
            let steps = weight * inverse;
            let level = steps.round_ties_even();
            undecided |= (steps - level).abs() > DECIDED;
            // The low bits of the sum are the integer; `as u8` would clamp each number and be slower.
            *code = ((level + zero32).clamp(0.0, most32) + (1 << 23) as f32).to_bits() as u8;
        }
        if undecided {
            nearest_exact(weights, scale, zero, most, codes);
        }
    }
    nearest_exact(rest, scale, zero, most, last);
}

/// Rounds the quotients exactly, without a division. The quotient of two 24-bit numbers is a tie or at least 2^-25 away
/// from one, and the product with the inverse differs from it by less than 2^-43. Rounded to a multiple of 2^-34, by
/// adding a number whose last bit that is, the product lies on the same side of the tie, and ties are ties again.
#[inline(always)]
fn nearest_exact(weights: &[f32], scale: f64, zero: f64, most: f64, codes: &mut [u8]) {
    const LAST_BIT: f64 = 1.5 * (1u64 << 18) as f64;
    let inverse = 1.0 / scale;
    for (code, weight) in codes.iter_mut().zip(weights) {
        let steps = (f64::from(*weight) * inverse + LAST_BIT) - LAST_BIT;
        *code = (steps.round_ties_even() + zero).clamp(0.0, most) as u8;
    }
}

/// The scale in the type that the file will hold.
///
/// # Errors
/// The scale overflows.
pub(super) fn scale_as_stored(exact: f64, dtype: FloatType) -> Result<f32, String> {
    let scale = dtype.round(exact as f32);
    if !scale.is_finite() {
        return Err(format!("its scale {exact:e} does not fit {dtype:?}"));
    }
    // Weights too small for the type: the smallest scale there is keeps the division defined.
    Ok(if scale == 0.0 { dtype.smallest_positive() } else { scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_floats_are_those_of_doubles() {
        let nan = f32::from_bits(0xffc0_0001);
        for (weights, expected) in [
            (&[][..], Some([0.0, 0.0])),
            (&[1.5, 2.0], Some([0.0, 2.0])),
            (&[-1.5, -2.0, -0.0], Some([-2.0, 0.0])),
            (&[-0.0], Some([-0.0, 0.0])),
            (&[f32::MIN, 3.0, f32::MAX], Some([f32::MIN, f32::MAX])),
            (&[f32::NAN, 1.0], None),
            (&[1.0, nan], None),
            (&[f32::INFINITY], None),
            (&[-1.0, f32::NEG_INFINITY], None),
        ] {
            for padding in [0, 1, 31, 32, 77] {
                let mut padded = vec![0.0; padding];
                padded.extend(weights);
                padded.extend(vec![0.0; padding / 3]);
                assert_eq!(range_of_floats(&padded), expected, "{weights:?} {padding}");
                let doubles: Vec<f64> = padded.iter().map(|w| f64::from(*w)).collect();
                let [min, max, finite] = range(&doubles);
                let range = (finite == 0.0).then_some([min as f32, max as f32]);
                assert_eq!(range, expected, "{weights:?} {padding}");
            }
        }
    }

    /// Looks at every tie of every number of levels, and at the numbers beside it.
    #[test]
    fn nearest_levels_are_those_of_the_quotient() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(0x3a00_0000 + (state >> 6)) // 2^-11 and up, all mantissas
        };
        let (mut ties, mut checked) = (0, 0);
        for case in 0..3000 {
            // Every other scale has few bits, so that there are exact ties.
            let scale = match case {
                0 => 1e-42,
                1 => 2e38,
                _ if case % 2 == 0 => random(),
                _ => FloatType::F16.round(random()),
            };
            for (zero, most) in [(0.0, 255.0), (128.0, 255.0), (7.0, 15.0)] {
                let weights: Vec<f32> = (-256..=256)
                    .flat_map(|k| {
                        let tie = (f64::from(k) + 0.5) * f64::from(scale);
                        let near = tie as f32;
                        ties += usize::from(f64::from(near) == tie);
                        [near.next_down(), near, near.next_up()]
                    })
                    .chain([0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE])
                    .collect();
                let mut codes = vec![0; weights.len()];
                let scale = f64::from(scale);
                nearest(&weights, scale, zero, most, &mut codes);
                for (weight, code) in weights.iter().zip(codes) {
                    let steps = (f64::from(*weight) / scale).round_ties_even();
                    assert_eq!(code, (steps + zero).clamp(0.0, most) as u8, "{weight:e} / {scale:e}");
                    checked += 1;
                }
            }
        }
        assert!(ties > checked / 10, "{ties} of {checked}");
    }
}
