//! Distribution version 1: the direction a seed means, and how a coefficient moves a scale along it.
//! Journals and kernels on every device rely on these bits: a change here is a new version.
//!
//! Move is a small integer k made by integer operations alone. Every coefficient that multiplies it is
//! first rounded to 16 significant bits; as |k| ≤ 64 has at most 7, their product is exact in f32. Then
//! each line of [`Move::apply`] rounds the same whether or not a compiler fuses multiply and add.
//!
//! Parameter ids, scale order and the storage of scales belong to the checkpoint and the model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::{Stream, random_bits};

pub const PERTURBATION_VERSION: u32 = 1;

/// The largest |k| of any [`Distribution`].
pub const MAX_ABS_NOISE: i32 = 64;

/// Distribution of the direction z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// z = k/√32 with k = popcount(128 random bits) − 64: mean 0, variance 1, kurtosis 2.98.
    #[default]
    Gaussian,
    /// z = k = ±1, one random bit each.
    Rademacher,
}

/// The way in which a direction changes a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScaleMode {
    /// s + e·k, as in the QZO paper (arXiv 2505.13430).
    #[default]
    Absolute,
    /// s·(1 + e·k): one ε fits layers whose scales differ by orders of magnitude.
    Relative,
}

/// k of scale `index` of `parameter` in probe number `probe` of the step seeded with `seed`.
///
/// Philox key: (seed low word, seed high word). Counter: (c0, parameter, probe, stream), where c0 is
/// `index` for gaussian and `index >> 7` for rademacher, which takes bit `index & 127` of the 128 bits
/// (bit 0 is the lowest of the first word) as +1 where it is set.
///
/// For seed `0x123456789abcdef0`, parameter 7, probe 0, indices 0 to 15:
/// gaussian −1 −7 −8 −8 10 1 −1 0 −6 −5 0 −3 −6 −5 1 −10; rademacher + + − − − + − + + + + − − − − −.
pub fn integer_noise(kind: Distribution, seed: u64, parameter: u32, probe: u32, index: u32) -> i32 {
    match kind {
        Distribution::Gaussian => {
            let words = random_bits(seed, [index, parameter, probe], Stream::Gaussian);
            words.iter().map(|word| word.count_ones() as i32).sum::<i32>() - 64
        }
        Distribution::Rademacher => {
            let words = random_bits(seed, [index >> 7, parameter, probe], Stream::Rademacher);
            let word = words[(index as usize & 127) >> 5];
            if (word >> (index & 31)) & 1 == 1 { 1 } else { -1 }
        }
    }
}

/// The factor of the integer k that stands for `value`·z: `value`/√32 for gaussian and `value` for
/// rademacher, rounded to 16 significant bits.
pub fn coefficient(kind: Distribution, value: f64) -> f32 {
    match kind {
        // 4·√2 = √32, exactly as rounded as the square root itself.
        Distribution::Gaussian => round_to_16_bits(value / (4.0 * std::f64::consts::SQRT_2)),
        Distribution::Rademacher => round_to_16_bits(value),
    }
}

/// `value` rounded once to 16 significant bits, ties to even: exact in f32.
///
/// A value that f32 holds only as a subnormal becomes 0 with its sign, because some devices flush subnormals;
/// a value beyond f32 becomes infinite; NaN stays NaN.
pub fn round_to_16_bits(value: f64) -> f32 {
    const DROPPED: u32 = f64::MANTISSA_DIGITS - 16;
    if !value.is_finite() {
        return value as f32;
    }
    let bits = value.to_bits();
    let last_kept = (bits >> DROPPED) & 1;
    // A carry out of the significand moves on into the exponent, which is the right result.
    let rounded = (bits + (1 << (DROPPED - 1)) - 1 + last_kept) & !((1 << DROPPED) - 1);
    let rounded = f64::from_bits(rounded);
    if rounded.abs() < f64::from(f32::MIN_POSITIVE) {
        return 0.0_f32.copysign(value as f32);
    }
    rounded as f32
}

/// Which way every scale goes: the number k of each scale follows from this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    pub distribution: Distribution,
    pub mode: ScaleMode,
    pub seed: u64,
    /// Counts the directions of a step.
    pub probe: u32,
}

/// A direction and how far to go along it: ε for a forward pass, the step for an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    pub direction: Direction,
    /// Factor of the integer k, of at most 16 significant bits: see [`coefficient`].
    pub coefficient: f32,
}

impl Move {
    /// The same direction, the other way.
    pub fn reversed(self) -> Self {
        Self { coefficient: -self.coefficient, ..self }
    }

    /// k of scale `index` of `parameter`: see [`integer_noise`].
    pub fn k(&self, parameter: u32, index: u32) -> i32 {
        let Direction { distribution, seed, probe, .. } = self.direction;
        integer_noise(distribution, seed, parameter, probe, index)
    }

    /// `scale` moved by the coefficient along `k`. A scale of 0 stays 0: its block is constant.
    pub fn apply(&self, scale: f32, k: i32) -> f32 {
        if scale == 0.0 {
            return scale;
        }
        let shift = self.coefficient * k as f32; // exact
        match self.direction.mode {
            ScaleMode::Absolute => scale + shift,
            ScaleMode::Relative => {
                let t = 1.0 + shift;
                scale * t
            }
        }
    }
}

/// The places at which the rows of a forward pass see the trained scales.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Signs {
    /// The scales as they are.
    #[default]
    Neither,
    /// The scales, moved.
    One(Move),
    /// The first half of the rows sees them moved, the second half moved as far the other way.
    Both(Move),
}

impl Signs {
    /// One entry for each equal part of the rows, in their order.
    pub fn parts(self) -> impl ExactSizeIterator<Item = Option<Move>> {
        let (first, second) = match self {
            Self::Neither => (None, None),
            Self::One(noise) => (Some(noise), None),
            Self::Both(noise) => (Some(noise), Some(noise.reversed())),
        };
        let count = if matches!(self, Self::Both(_)) { 2 } else { 1 };
        [first, second].into_iter().take(count)
    }
}

/// The seed of one step: the first two words (low, high) of Philox at counter
/// (step low word, step high word, 0, 5) under the key `run_seed`.
pub fn step_seed(run_seed: u64, step: u64) -> u64 {
    let [low, high, ..] = random_bits(run_seed, [step as u32, (step >> 32) as u32, 0], Stream::StepSeed);
    u64::from(low) | (u64::from(high) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::philox4x32_10;

    const SEED: u64 = 0x1234_5678_9abc_def0;
    const KINDS: [Distribution; 2] = [Distribution::Gaussian, Distribution::Rademacher];

    fn sequence(kind: Distribution, probe: u32, indices: std::ops::Range<u32>) -> Vec<i32> {
        indices.map(|index| integer_noise(kind, SEED, 7, probe, index)).collect()
    }

    // Expected numbers of this module come from an independent Python implementation on unbounded
    // integers and exact fractions.

    #[test]
    fn gaussian_noise_has_its_golden_sequence() {
        let golden = [-1, -7, -8, -8, 10, 1, -1, 0, -6, -5, 0, -3, -6, -5, 1, -10];
        assert_eq!(sequence(Distribution::Gaussian, 0, 0..16), golden);
        assert_eq!(sequence(Distribution::Gaussian, 3, 1000..1008), [4, 4, 2, -10, -9, -7, -9, 1]);
    }

    #[test]
    fn rademacher_noise_has_its_golden_sequence() {
        let golden = [1, 1, -1, -1, -1, 1, -1, 1, 1, 1, 1, -1, -1, -1, -1, -1];
        assert_eq!(sequence(Distribution::Rademacher, 0, 0..16), golden);
        let across_blocks = [1, 1, 1, -1, -1, 1, 1, 1, 1, 1, -1, 1];
        assert_eq!(sequence(Distribution::Rademacher, 0, 124..136), across_blocks);
        assert_eq!(sequence(Distribution::Rademacher, 3, 300..308), [-1, 1, -1, 1, -1, -1, 1, -1]);
    }

    #[test]
    fn step_seeds_have_golden_values() {
        let golden = [
            ((0, 0), 0xe5a5_ea88_2a49_7e61),
            ((0, 1), 0x6dc1_f431_35a9_7ab0),
            ((42, 141), 0x7580_f758_9866_109c),
            ((SEED, 1 << 32), 0xb98b_a923_2dcc_06ac),
        ];
        for ((run_seed, step), expected) in golden {
            assert_eq!(step_seed(run_seed, step), expected, "run seed {run_seed} step {step}");
        }
    }

    #[test]
    fn noise_has_the_moments_of_its_distribution() {
        let n = 200_000;
        for (kind, unit, kurtosis) in
            [(Distribution::Gaussian, 32.0_f64.sqrt(), 2.98), (Distribution::Rademacher, 1.0, 1.0)]
        {
            let moment = |power: i32| {
                let z = |index| f64::from(integer_noise(kind, 1, 2, 3, index)) / unit;
                (0..n).map(|index| z(index).powi(power)).sum::<f64>() / f64::from(n)
            };
            assert!(moment(1).abs() < 0.01, "{kind:?} mean {}", moment(1));
            assert!((moment(2) - 1.0).abs() < 0.02, "{kind:?} variance {}", moment(2));
            assert!((moment(4) - kurtosis).abs() < 0.1, "{kind:?} kurtosis {}", moment(4));
        }
    }

    #[test]
    fn rounds_to_sixteen_significant_bits_ties_to_even() {
        let golden = [
            (1e-3, 0x3a83_1200),
            (1e-2, 0x3c23_d700),
            (5e-3, 0x3ba3_d700),
            (0.1, 0x3dcc_cd00),
            (-3.3e-7, 0xb4b1_2b00),
            (1.0 / 3.0, 0x3eaa_ab00),
        ];
        for (value, bits) in golden {
            assert_eq!(round_to_16_bits(value).to_bits(), bits, "{value}");
        }
        assert_eq!(coefficient(Distribution::Gaussian, 1e-2).to_bits(), 0x3ae7_b400);
        assert_eq!(coefficient(Distribution::Gaussian, 1e-3).to_bits(), 0x3939_5d00);
        assert_eq!(coefficient(Distribution::Rademacher, 1e-2).to_bits(), 0x3c23_d700);

        let ulp = 2.0_f64.powi(-15);
        assert_eq!(round_to_16_bits(1.0 + 0.5 * ulp), 1.0);
        assert_eq!(round_to_16_bits(1.0 + 1.5 * ulp), (1.0 + 2.0 * ulp) as f32);
        // Just above a tie: rounding through f32 first would land on the tie and go down.
        assert_eq!(round_to_16_bits(1.0 + 0.5 * ulp + 1e-15), (1.0 + ulp) as f32);
        assert_eq!(round_to_16_bits(2.0 - 0.25 * ulp), 2.0, "the carry reaches the exponent");
    }

    #[test]
    fn rounding_handles_the_ends_of_the_range() {
        let smallest = f64::from(f32::MIN_POSITIVE);
        assert_eq!(round_to_16_bits(smallest), f32::MIN_POSITIVE);
        assert_eq!(round_to_16_bits(smallest * (1.0 - 1e-9)), f32::MIN_POSITIVE);
        for tiny in [smallest * 0.99, smallest / 2.0, 1e-50, f64::MIN_POSITIVE / 8.0, 0.0] {
            assert_eq!(round_to_16_bits(tiny).to_bits(), 0.0_f32.to_bits(), "{tiny}");
            assert_eq!(round_to_16_bits(-tiny).to_bits(), (-0.0_f32).to_bits(), "-{tiny}");
        }
        let largest = 65535.0 * 2.0_f64.powi(112);
        assert_eq!(f64::from(round_to_16_bits(largest)), largest);
        for huge in [f64::from(f32::MAX), 1e39, f64::MAX, f64::INFINITY] {
            assert_eq!(round_to_16_bits(huge), f32::INFINITY, "{huge}");
            assert_eq!(round_to_16_bits(-huge), f32::NEG_INFINITY, "-{huge}");
        }
        assert!(round_to_16_bits(f64::NAN).is_nan());
    }

    /// Coefficients and scales over many orders of magnitude, from the generator under test.
    fn samples() -> impl Iterator<Item = (f32, f32)> {
        (0..2000_u32).map(|i| {
            let [a, b, c, d] = philox4x32_10([i, 0, 0, 9], [1, 2]);
            let unit = |word: u32| f64::from(word) / f64::from(u32::MAX) - 0.5;
            let magnitude = |word: u32, span: i32| 10.0_f64.powi((word % span as u32) as i32 - span + 1);
            (round_to_16_bits(unit(a) * magnitude(b, 12)), (unit(c) * magnitude(d, 6)) as f32)
        })
    }

    #[test]
    fn the_product_with_noise_is_exact_so_fusing_changes_nothing() {
        for (e, scale) in samples() {
            for k in -MAX_ABS_NOISE..=MAX_ABS_NOISE {
                let noise = |mode| Move {
                    direction: Direction { distribution: KINDS[0], mode, seed: 0, probe: 0 },
                    coefficient: e,
                };
                let k_f32 = k as f32;
                assert_eq!(f64::from(e * k_f32), f64::from(e) * f64::from(k), "{e} · {k}");

                let absolute = noise(ScaleMode::Absolute).apply(scale, k);
                assert_eq!(absolute.to_bits(), e.mul_add(k_f32, scale).to_bits(), "{scale} + {e}·{k}");
                let relative = noise(ScaleMode::Relative).apply(scale, k);
                let fused = scale * e.mul_add(k_f32, 1.0);
                assert_eq!(relative.to_bits(), fused.to_bits(), "{scale}·(1 + {e}·{k})");
            }
        }
    }

    #[test]
    fn a_scale_of_zero_is_never_moved() {
        for kind in KINDS {
            for mode in [ScaleMode::Absolute, ScaleMode::Relative] {
                let noise = Move {
                    direction: Direction { distribution: kind, mode, seed: 0, probe: 0 },
                    coefficient: 0.5,
                };
                for zero in [0.0_f32, -0.0] {
                    assert_eq!(noise.apply(zero, 10).to_bits(), zero.to_bits());
                }
                assert_ne!(noise.apply(0.25, 1), 0.25);
                assert_eq!(Move { coefficient: 0.0, ..noise }.apply(0.25, 1), 0.25);
            }
        }
    }

    #[test]
    fn reads_and_writes_the_names_of_the_configuration() {
        let json = serde_json::to_string(&(KINDS, [ScaleMode::Absolute, ScaleMode::Relative])).unwrap();
        assert_eq!(json, r#"[["gaussian","rademacher"],["absolute","relative"]]"#);
    }
}
