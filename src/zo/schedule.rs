//! The learning rate of each step. Shapes and names are those of Hugging Face `transformers`
//! (`optimization.py`), with one difference: `constant` honours `warmup_steps`, too, for which
//! transformers has a second name, `constant_with_warmup`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LrScheduler {
    /// The same rate in every step, as in the paper.
    #[default]
    Constant,
    /// Falls linearly to 0 at `max_steps`.
    Linear,
    /// Falls to 0 at `max_steps` along half a cosine.
    Cosine,
}

/// A learning rate schedule: its shape and its warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    pub lr_scheduler_type: LrScheduler,
    /// Steps over which the learning rate rises linearly; the first of them has rate 0.
    pub warmup_steps: u64,
    /// Share of the rate at which a falling rate ends.
    pub min_lr_rate: f64,
}

impl Schedule {
    /// The learning rate at `step`, counted from 0.
    pub fn at(&self, step: u64, max_steps: u64, base_lr: f64) -> f64 {
        if step < self.warmup_steps {
            return base_lr * (step as f64 / self.warmup_steps as f64);
        }
        let decay_steps = max_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        let fallen = |share: f64| base_lr * (self.min_lr_rate + (1.0 - self.min_lr_rate) * share);
        match self.lr_scheduler_type {
            LrScheduler::Constant => base_lr,
            LrScheduler::Linear => fallen(1.0 - progress),
            LrScheduler::Cosine => fallen(0.5 * (1.0 + (std::f64::consts::PI * progress).cos())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [u64; 9] = [0, 1, 5, 10, 11, 37, 55, 99, 100];

    /// Compares with `get_*_schedule_with_warmup(optimizer, warmup, 100)` of transformers 4.57.6.
    fn assert_follows(lr_scheduler_type: LrScheduler, warmup_steps: u64, expected: [f64; 9]) {
        let schedule = Schedule { lr_scheduler_type, warmup_steps, min_lr_rate: 0.0 };
        for (step, expected) in STEPS.into_iter().zip(expected) {
            let lr = schedule.at(step, 100, 2.0);
            assert!((lr - 2.0 * expected).abs() < 1e-15, "{schedule:?} at {step}: {lr}");
        }
    }

    #[test]
    fn rates_equal_those_of_transformers() {
        assert_follows(LrScheduler::Constant, 10, [0.0, 0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_follows(
            LrScheduler::Linear,
            10,
            [0.0, 0.1, 0.5, 1.0, 0.9888888888888889, 0.7, 0.5, 0.011111111111111112, 0.0],
        );
        assert_follows(
            LrScheduler::Cosine,
            10,
            [0.0, 0.1, 0.5, 1.0, 0.9996954135095479, 0.7938926261462366, 0.5, 0.00030458649045211894, 0.0],
        );
        assert_follows(
            LrScheduler::Cosine,
            0,
            [
                1.0,
                0.9997532801828658,
                0.9938441702975689,
                0.9755282581475768,
                0.9704403844771128,
                0.6985739453173903,
                0.42178276747988447,
                0.0002467198171342,
                0.0,
            ],
        );
    }

    #[test]
    fn rates_stay_finite_when_the_warmup_is_longer_than_the_run_and_after_its_end() {
        for lr_scheduler_type in [LrScheduler::Constant, LrScheduler::Linear, LrScheduler::Cosine] {
            for (warmup_steps, max_steps) in [(0, 0), (10, 5), (10, 10)] {
                let schedule = Schedule { lr_scheduler_type, warmup_steps, min_lr_rate: 0.0 };
                for step in 0..30 {
                    let lr = schedule.at(step, max_steps, 1.0);
                    assert!((0.0..=1.0).contains(&lr), "{schedule:?} at {step} of {max_steps}: {lr}");
                }
            }
        }
    }

    #[test]
    fn a_rate_falls_to_its_least_share() {
        for lr_scheduler_type in [LrScheduler::Linear, LrScheduler::Cosine] {
            let schedule = Schedule { lr_scheduler_type, warmup_steps: 10, min_lr_rate: 0.25 };
            assert_eq!([schedule.at(10, 100, 2.0), schedule.at(100, 100, 2.0)], [2.0, 0.5]);
            assert!((schedule.at(55, 100, 2.0) - 1.25).abs() < 1e-12);
        }
    }
}
