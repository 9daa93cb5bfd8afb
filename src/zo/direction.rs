//! Perturbation, version 1: the direction that a seed stands for, and how a coefficient moves a scale along it.
//! Journals and kernels on every device rely on these bits: a change here is a new version.
//!
//! The component of a direction at one scale is a small integer k, made by integer operations alone. Every coefficient
//! that multiplies k is first rounded to 16 significant bits. As |k| ≤ 64 has at most 7 bits, the product is exact in
//! f32, and each line of [`Move::apply`] rounds the same whether or not a compiler fuses multiply and add.
//!
//! The checkpoint and the model define parameter ids, the order of the scales and their storage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::{Stream, random_bits};

/// Version of the perturbation, recorded in every journal.
pub const PERTURBATION_VERSION: u32 = 1;

/// The largest |k| of any [`Distribution`].
pub const MAX_ABS_NOISE: i32 = 64;

/// Distribution of the components z of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// z = k/√32 with k = popcount(128 random bits) − 64: mean 0, variance 1, kurtosis 2.98.
    #[default]
    Gaussian,
    /// z = k = ±1, from one random bit each.
    Rademacher,
}

/// The way in which a direction changes a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScaleMode {
    /// s + e·k, as in the QZO paper (arXiv 2505.13430).
    #[default]
    Absolute,
    /// s·(1 + e·k), so that one ε fits layers whose scales differ by orders of magnitude.
    Relative,
}

/// Returns k for scale `index` of `parameter`, in probe number `probe` of the step with seed `seed`.
///
/// Philox key: (seed low word, seed high word). Counter: (c0, parameter, probe, stream), where c0 is `index` for
/// gaussian and `index >> 7` for rademacher. For rademacher, k is +1 if bit `index & 127` of the 128 bits is set (bit 0
/// is the lowest of the first word), else −1.
///
/// For seed `0x123456789abcdef0`, parameter 7, probe 0, indices 0 to 15:
/// gaussian −1 −7 −8 −8 10 1 −1 0 −6 −5 0 −3 −6 −5 1 −10; rademacher + + − − − + − + + + + − − − − −.
pub fn integer_noise(distribution: Distribution, seed: u64, parameter: u32, probe: u32, index: u32) -> i32 {
    match distribution {
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

/// The factor of the integer k that gives `value`·z: `value`/√32 for gaussian and `value` for
/// rademacher, rounded to 16 significant bits.
pub fn coefficient(distribution: Distribution, value: f64) -> f32 {
    match distribution {
        // 4·√2 equals √32, rounded like √2, because 4 is a power of two.
        Distribution::Gaussian => round_to_16_bits(value / (4.0 * std::f64::consts::SQRT_2)),
        Distribution::Rademacher => round_to_16_bits(value),
    }
}

/// Rounds `value` once to 16 significant bits, ties to even. The result is exact in f32.
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
    // A carry out of the significand increments the exponent, which is the correct result.
    let rounded = (bits + (1 << (DROPPED - 1)) - 1 + last_kept) & !((1 << DROPPED) - 1);
    let rounded = f64::from_bits(rounded);
    if rounded.abs() < f64::from(f32::MIN_POSITIVE) {
        return 0.0_f32.copysign(value as f32);
    }
    rounded as f32
}

/// A direction in the space of all scales: the integer k of every scale follows from these fields alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    pub distribution: Distribution,
    pub mode: ScaleMode,
    pub seed: u64,
    /// Number of the direction among those of its step, from 0.
    pub probe: u32,
}

/// A displacement of all scales along a direction: by ε in a forward pass, by the step in an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    pub direction: Direction,
    /// Factor of the integer k, with at most 16 significant bits: see [`coefficient`].
    pub coefficient: f32,
}

impl Move {
    /// The displacement as far in the opposite direction.
    pub fn reversed(self) -> Self {
        Self { coefficient: -self.coefficient, ..self }
    }

    /// Returns k for scale `index` of `parameter`: see [`integer_noise`].
    pub fn k(&self, parameter: u32, index: u32) -> i32 {
        let Direction { distribution, seed, probe, .. } = self.direction;
        integer_noise(distribution, seed, parameter, probe, index)
    }

    /// Moves `scale`, whose component of the direction is `k`. A scale of 0 stays 0, because its group is constant.
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

/// Displacement of the trained scales in a forward pass. With both signs, the two halves of the rows see different
/// scales.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Signs {
    /// All rows see the scales as they are, in the arithmetic of evaluation.
    #[default]
    Neither,
    /// All rows see the scales as they are, in the arithmetic of training, which may round activations and weights.
    Centre,
    /// All rows see the scales displaced.
    One(Move),
    /// The first half of the rows sees the scales displaced, the second half displaced in the opposite direction.
    Both(Move),
}

impl Signs {
    /// The displacement of each part of the rows, in order. All parts have the same number of rows.
    pub fn parts(self) -> impl ExactSizeIterator<Item = Option<Move>> {
        let (first, second) = match self {
            Self::Neither | Self::Centre => (None, None),
            Self::One(perturbation) => (Some(perturbation), None),
            Self::Both(perturbation) => (Some(perturbation), Some(perturbation.reversed())),
        };
        let count = if matches!(self, Self::Both(_)) { 2 } else { 1 };
        [first, second].into_iter().take(count)
    }
}

/// Derives the seed of a step: the first two words (low, high) of Philox at counter
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
    const DISTRIBUTIONS: [Distribution; 2] = [Distribution::Gaussian, Distribution::Rademacher];

    fn sequence(distribution: Distribution, probe: u32, indices: std::ops::Range<u32>) -> Vec<i32> {
        indices.map(|index| integer_noise(distribution, SEED, 7, probe, index)).collect()
    }

    // The expected numbers in these tests come from an independent Python implementation with unbounded
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
        for (distribution, unit, kurtosis) in
            [(Distribution::Gaussian, 32.0_f64.sqrt(), 2.98), (Distribution::Rademacher, 1.0, 1.0)]
        {
            let moment = |power: i32| {
                let z = |index| f64::from(integer_noise(distribution, 1, 2, 3, index)) / unit;
                (0..n).map(|index| z(index).powi(power)).sum::<f64>() / f64::from(n)
            };
            assert!(moment(1).abs() < 0.01, "{distribution:?} mean {}", moment(1));
            assert!((moment(2) - 1.0).abs() < 0.02, "{distribution:?} variance {}", moment(2));
            assert!((moment(4) - kurtosis).abs() < 0.1, "{distribution:?} kurtosis {}", moment(4));
        }
    }

    #[test]
    fn rounding_keeps_sixteen_significant_bits_and_sends_ties_to_even() {
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

    /// Coefficients and scales over many orders of magnitude, drawn with Philox.
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
                let perturbation = |mode| Move {
                    direction: Direction { distribution: DISTRIBUTIONS[0], mode, seed: 0, probe: 0 },
                    coefficient: e,
                };
                let k_f32 = k as f32;
                assert_eq!(f64::from(e * k_f32), f64::from(e) * f64::from(k), "{e} · {k}");

                let absolute = perturbation(ScaleMode::Absolute).apply(scale, k);
                assert_eq!(absolute.to_bits(), e.mul_add(k_f32, scale).to_bits(), "{scale} + {e}·{k}");
                let relative = perturbation(ScaleMode::Relative).apply(scale, k);
                let fused = scale * e.mul_add(k_f32, 1.0);
                assert_eq!(relative.to_bits(), fused.to_bits(), "{scale}·(1 + {e}·{k})");
            }
        }
    }

    #[test]
    fn a_scale_of_zero_is_never_moved() {
        for distribution in DISTRIBUTIONS {
            for mode in [ScaleMode::Absolute, ScaleMode::Relative] {
                let perturbation =
                    Move { direction: Direction { distribution, mode, seed: 0, probe: 0 }, coefficient: 0.5 };
                for zero in [0.0_f32, -0.0] {
                    assert_eq!(perturbation.apply(zero, 10).to_bits(), zero.to_bits());
                }
                assert_ne!(perturbation.apply(0.25, 1), 0.25);
                assert_eq!(Move { coefficient: 0.0, ..perturbation }.apply(0.25, 1), 0.25);
            }
        }
    }

    #[test]
    fn names_in_the_configuration_are_lowercase() {
        let json =
            serde_json::to_string(&(DISTRIBUTIONS, [ScaleMode::Absolute, ScaleMode::Relative])).unwrap();
        assert_eq!(json, r#"[["gaussian","rademacher"],["absolute","relative"]]"#);
    }
}
