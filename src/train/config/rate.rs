//! The learning rate of each step.

use super::{LearningRate, MethodKind, TrainConfig};
use crate::model::ScaleForm;
use crate::train::optimizer::OptimizerKind;
use crate::zo::direction::ScaleMode;
use crate::zo::schedule::{LrScheduler, Schedule};

impl TrainConfig {
    /// The learning rate at `step`, counted from 0.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        self.schedule().at(step, self.max_steps, self.highest_learning_rate())
    }

    /// The learning rate after the warmup.
    pub fn highest_learning_rate(&self) -> f64 {
        /// Distance that a scale moves in a run, as a share: more does not help a model of some hundred million weights.
        const DISTANCE: f64 = 0.02;
        /// The same for factors of scales.
        const FACTOR_DISTANCE: f64 = 0.03;
        /// Steps up to which the rate is the same: the first steps of a run all go one way, and larger ones go too far.
        const FEW_STEPS: u64 = 40;
        match (self.learning_rate, self.method) {
            (LearningRate::Fixed(rate), _) => rate,
            (LearningRate::Auto, MethodKind::Zo) => match self.scale_mode {
                ScaleMode::Relative => 5e-3,
                ScaleMode::Absolute => 1e-7,
            },
            (LearningRate::Auto, MethodKind::Exact) => {
                let distance = match self.parameters.form {
                    ScaleForm::Scales => DISTANCE,
                    ScaleForm::Rows | ScaleForm::Factors => FACTOR_DISTANCE,
                };
                // Under Adam a parameter moves about 0.47 · √steps learning rates; all of Lion's steps are whole ones.
                let share = if self.optimizer == OptimizerKind::Lion { 0.2 } else { 1.0 };
                share * distance / (0.47 * (self.max_steps.max(FEW_STEPS) as f64).sqrt())
            }
        }
    }

    /// The schedule of the learning rate.
    pub fn schedule(&self) -> Schedule {
        let exact = self.method == MethodKind::Exact;
        let lr_scheduler_type = if exact { LrScheduler::Cosine } else { LrScheduler::Constant };
        Schedule {
            lr_scheduler_type: self.lr_scheduler_type.unwrap_or(lr_scheduler_type),
            warmup_steps: self.warmup_steps.unwrap_or(if exact { self.max_steps / 20 } else { 0 }),
            min_lr_rate: self.min_lr_rate.unwrap_or(if exact { 0.05 } else { 0.0 }),
        }
    }

    /// Whether the learning rate of a step depends on the number of steps of the run.
    pub fn depends_on_max_steps(&self) -> bool {
        let exact = self.method == MethodKind::Exact;
        let warms_up = exact && self.warmup_steps.is_none();
        let auto = exact && self.learning_rate == LearningRate::Auto;
        self.schedule().lr_scheduler_type != LrScheduler::Constant || warms_up || auto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_short_run_is_that_of_forty_steps() {
        let rate = |max_steps| TrainConfig { max_steps, ..TrainConfig::default() }.highest_learning_rate();
        assert!((rate(60) - 5.49e-3).abs() < 1e-5, "{}", rate(60));
        assert_eq!((rate(1), rate(10)), (rate(40), rate(40)));
        assert!(rate(40) > rate(41));
    }
}
