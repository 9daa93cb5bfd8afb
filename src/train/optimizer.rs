//! Optimizers of exact gradients. A parameter is the logarithm of a scale's magnitude or of a factor of scales, so that
//! a step multiplies: its size is a share of the scale. The state is kept in bf16 with stochastic rounding, half the
//! memory of f32; with rounding to nearest, the small steps of a second moment would be lost.

use std::borrow::Cow;
use std::collections::BTreeMap;

use half::bf16;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::rng::{Stream, random_bits};

/// Name of an optimizer in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam without weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019).
    #[default]
    AdamW,
    /// Lion (Chen et al. 2023): half the state, and steps of one size.
    Lion,
    /// Gradient descent without state.
    Sgd,
}

/// Decay of the first moment.
const BETA1: f32 = 0.9;
/// Decay of the second moment; of Lion's momentum.
const BETA2: f32 = 0.99;
const EPS: f32 = 1e-8;
/// Name of the number of steps in the state.
const STEPS: &str = "steps";
/// Parameters that a task updates.
const CHUNK: usize = 4096;

/// An optimizer with its state.
#[derive(Debug, Clone)]
pub struct Optimizer {
    kind: OptimizerKind,
    seed: u64,
    /// Number of steps taken.
    steps: u64,
    /// For each weight its moments, one after the other: `[moments][parameters]`.
    moments: BTreeMap<u32, Vec<bf16>>,
}

impl OptimizerKind {
    /// Values of state for each parameter.
    pub fn moments(self) -> usize {
        match self {
            Self::AdamW => 2,
            Self::Lion => 1,
            Self::Sgd => 0,
        }
    }
}

impl Optimizer {
    /// An optimizer that has taken no step. `seed` is the run's: the rounding of the state follows from it.
    pub fn new(kind: OptimizerKind, seed: u64) -> Self {
        Self { kind, seed, steps: 0, moments: BTreeMap::new() }
    }

    /// Begins a step, in which each weight is updated once.
    pub fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// Computes the changes of one weight's parameters for `share` of their gradient, and writes what `made` makes of each
    /// change in place of the gradient: memory limits the speed.
    pub fn update(
        &mut self,
        weight: u32,
        gradient: &mut [f32],
        share: f32,
        learning_rate: f32,
        made: impl Fn(f32) -> f32 + Sync,
    ) {
        let Self { kind, seed, steps, .. } = *self;
        let (count, length) = (kind.moments(), gradient.len());
        let moments = self.moments.entry(weight).or_insert_with(|| vec![bf16::ZERO; count * length]);
        let chunks = gradient.par_chunks_mut(CHUNK);
        let rounding = |chunk| Rounding { seed, step: steps as u32, weight, first: (chunk * CHUNK) as u32 };
        match kind {
            OptimizerKind::AdamW => {
                let corrections = [BETA1, BETA2].map(|beta| 1.0 - beta.powf(steps as f32));
                let (first, second) = moments.split_at_mut(length);
                let state = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
                chunks.zip(state).enumerate().for_each(|(chunk, (values, (first, second)))| {
                    let mut rounding = rounding(chunk).bits();
                    for (i, value) in values.iter_mut().enumerate() {
                        let g = share * *value;
                        let m = BETA1 * first[i].to_f32() + (1.0 - BETA1) * g;
                        let v = BETA2 * second[i].to_f32() + (1.0 - BETA2) * g * g;
                        let [m_bits, v_bits] = rounding.next_pair();
                        (first[i], second[i]) = (rounded(m, m_bits), rounded(v, v_bits));
                        let change =
                            -learning_rate * (m / corrections[0]) / ((v / corrections[1]).sqrt() + EPS);
                        *value = made(change);
                    }
                });
            }
            OptimizerKind::Lion => {
                chunks.zip(moments.par_chunks_mut(CHUNK)).enumerate().for_each(
                    |(chunk, (values, momentum))| {
                        let mut rounding = rounding(chunk).bits();
                        for (value, momentum) in values.iter_mut().zip(momentum) {
                            let (g, m) = (share * *value, momentum.to_f32());
                            let direction = BETA1 * m + (1.0 - BETA1) * g;
                            *momentum = rounded(BETA2 * m + (1.0 - BETA2) * g, rounding.next_pair()[0]);
                            let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
                            *value = made(-learning_rate * sign);
                        }
                    },
                );
            }
            OptimizerKind::Sgd => chunks.for_each(|values| {
                values.iter_mut().for_each(|value| *value = made(-learning_rate * (share * *value)));
            }),
        }
    }

    /// Number of steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Forgets steps in which no weight was updated.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// The state as names and values: for each weight its moments under its parameter id, and the bits of the number of
    /// steps.
    pub fn state(&self) -> Vec<(String, Cow<'_, [bf16]>)> {
        let steps = [0, 16, 32, 48].map(|shift| bf16::from_bits((self.steps >> shift) as u16));
        let moments = self.moments.iter().map(|(weight, moments)| (weight.to_string(), Cow::from(moments)));
        moments.chain([(STEPS.to_owned(), Cow::from(steps.to_vec()))]).collect()
    }

    /// Restores a state.
    ///
    /// # Errors
    /// It is not one of [`Self::state`].
    pub fn restore(&mut self, state: Vec<(String, Vec<bf16>)>) -> Result<()> {
        self.moments.clear();
        for (name, values) in state {
            if name == STEPS {
                let bits = values.iter().rev().map(|word| u64::from(word.to_bits()));
                self.steps = bits.fold(0, |steps, word| steps << 16 | word);
            } else {
                let weight = name.parse();
                let weight =
                    weight.map_err(|_| Error::internal(format!("unknown optimizer state {name}")))?;
                self.moments.insert(weight, values);
            }
        }
        Ok(())
    }
}

/// The random bits of one weight's rounding in one step.
struct Rounding {
    seed: u64,
    step: u32,
    weight: u32,
    first: u32,
}

/// Pairs of 16 random bits, one after the other.
struct RoundingBits {
    at: Rounding,
    words: [u32; 4],
    used: usize,
}

impl Rounding {
    fn bits(self) -> RoundingBits {
        RoundingBits { at: self, words: [0; 4], used: 4 }
    }
}

impl RoundingBits {
    fn next_pair(&mut self) -> [u32; 2] {
        if self.used == 4 {
            let Rounding { seed, step, weight, first } = &mut self.at;
            self.words = random_bits(*seed, [*first / 4, *weight, *step], Stream::Optimizer);
            *first += 4;
            self.used = 0;
        }
        let word = self.words[self.used];
        self.used += 1;
        [word & 0xffff, word >> 16]
    }
}

/// Rounds to one of the two neighbouring bf16, to each with a probability that makes the mean exact. `bits` are 16 random
/// bits. Values that are not finite stay so.
fn rounded(value: f32, bits: u32) -> bf16 {
    if !value.is_finite() {
        return bf16::from_f32(value);
    }
    bf16::from_bits((value.to_bits().wrapping_add(bits) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_right_on_average() {
        for value in [1.003f32, -0.7134, 3e-7, 0.0] {
            let pairs = Rounding { seed: 3, step: 1, weight: 2, first: 0 };
            let mut bits = pairs.bits();
            let count = 20_000;
            let sum: f64 = (0..count).map(|_| f64::from(rounded(value, bits.next_pair()[0]).to_f32())).sum();
            let mean = sum / f64::from(count);
            assert!((mean - f64::from(value)).abs() <= 1e-4 * f64::from(value.abs()), "{value}: {mean}");
        }
        assert!(rounded(f32::NAN, 7).is_nan() && rounded(f32::INFINITY, 0xffff).is_infinite());
    }

    /// ½ Σ c (x − t)² with curvatures from 0.01 to 100.
    fn distance_after(kind: OptimizerKind, learning_rate: f32, steps: u32) -> f32 {
        let curvature = |i: usize| 10f32.powf((i % 5) as f32 - 2.0);
        let target = |i: usize| (i as f32 * 0.37).sin() * 0.1;
        let (mut x, mut optimizer) = (vec![0f32; 5000], Optimizer::new(kind, 7));
        for step in 0..steps {
            let mut changes: Vec<f32> =
                x.iter().enumerate().map(|(i, x)| curvature(i) * (x - target(i))).collect();
            optimizer.begin_step();
            let rate = learning_rate * (1.0 - step as f32 / steps as f32);
            optimizer.update(3, &mut changes, 1.0, rate, |change| change);
            x.iter_mut().zip(changes).for_each(|(x, change)| *x += change);
        }
        x.iter().enumerate().map(|(i, x)| (x - target(i)).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn optimizers_find_a_minimum() {
        assert!(distance_after(OptimizerKind::AdamW, 2e-3, 300) < 5e-3);
        assert!(distance_after(OptimizerKind::Lion, 2e-3, 300) < 5e-3);
        // Gradient descent is limited by the largest curvature.
        assert!(distance_after(OptimizerKind::Sgd, 1e-2, 300) < 0.1);
    }

    #[test]
    fn a_restored_state_continues_with_the_same_bits() {
        let gradient: Vec<f32> = (0..10_000).map(|i| (i as f32).sin()).collect();
        let step = |optimizer: &mut Optimizer| {
            optimizer.begin_step();
            let mut changes = gradient.clone();
            optimizer.update(1, &mut changes, 1.0, 1e-3, |change| change);
            changes
        };
        let mut whole = Optimizer::new(OptimizerKind::AdamW, 5);
        (0..3).for_each(|_| drop(step(&mut whole)));
        let state = whole.state().into_iter().map(|(name, values)| (name, values.into_owned())).collect();
        let mut restored = Optimizer::new(OptimizerKind::AdamW, 5);
        restored.restore(state).unwrap();
        assert_eq!(restored.steps(), 3);
        assert_eq!(step(&mut whole), step(&mut restored));
    }
}
