//! The `[train]` table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::method::StepStart;
use super::zeroth_order::ZerothOrder;
use crate::error::{Error, Result};
use crate::zo::direction::{Distribution, ScaleMode, step_seed};
use crate::zo::estimator::{Estimator, EstimatorKind, Qzo};
use crate::zo::journal::Hash;
use crate::zo::schedule::{LrScheduler, Schedule};

/// Name of a method of training in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// Zeroth order: forward passes alone.
    #[default]
    Zo,
}

/// The `[train]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Method of training.
    pub method: MethodKind,
    /// Number of steps of the whole run.
    pub max_steps: u64,
    /// Rows per step.
    pub batch_size: usize,
    /// Estimator with which zeroth order turns losses into a step.
    pub estimator: EstimatorKind,
    /// Factor of the gradient in a step. 5e-3 is usual in relative mode, 1e-7 in absolute mode.
    pub learning_rate: f64,
    /// Shape of the learning rate over the run.
    pub lr_scheduler_type: LrScheduler,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// ε: size of the perturbation at which the two losses of a step are taken.
    pub zo_eps: f64,
    /// Bound of the projected gradient (directional-derivative clipping); inf switches it off.
    pub clip: f64,
    /// Whether a step is added to a scale or multiplies it.
    pub scale_mode: ScaleMode,
    /// Distribution of the directions.
    pub perturbation: Distribution,
    /// Directions per step.
    pub probes: u32,
    /// Steps between evaluations on the dev set; 0: only before the first step and after the last.
    pub eval_steps: u64,
    /// Steps between snapshots of the scales, which limit how many steps a resumed run replays; 0: only after the last
    /// step.
    pub save_steps: u64,
    /// Steps between lines of the log; 0: no lines.
    pub logging_steps: u64,
    /// Number of successive steps that may be skipped because a loss was NaN or infinite; one more ends the run.
    pub max_skipped_steps: u64,
}

/// The defaults use relative mode with one ε for all layers. `configs/` holds the paper's settings, in absolute mode.
impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            method: MethodKind::Zo,
            max_steps: 1000,
            batch_size: 16,
            estimator: EstimatorKind::Qzo,
            learning_rate: 5e-3,
            lr_scheduler_type: LrScheduler::Constant,
            warmup_steps: 0,
            zo_eps: 1e-2,
            clip: 100.0,
            scale_mode: ScaleMode::Relative,
            perturbation: Distribution::Gaussian,
            probes: 1,
            eval_steps: 100,
            save_steps: 100,
            logging_steps: 10,
            max_skipped_steps: 10,
        }
    }
}

impl TrainConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// A value is outside its range; the error gives its key.
    pub fn validate(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::invalid("batch_size is 0", "set batch_size to 1 or more"));
        }
        if !self.learning_rate.is_finite() || self.learning_rate < 0.0 {
            return Err(Error::invalid(
                format!("learning_rate is {}: expected 0 or a positive number", self.learning_rate),
                "5e-3 is usual in relative mode, 1e-7 in absolute mode",
            ));
        }
        self.qzo().validate()
    }

    /// The method of training with its settings.
    pub fn method(&self) -> ZerothOrder {
        match self.method {
            MethodKind::Zo => ZerothOrder { estimator: self.estimator() },
        }
    }

    fn estimator(&self) -> Estimator {
        match self.estimator {
            EstimatorKind::Qzo => Estimator::Qzo(self.qzo()),
        }
    }

    /// The learning rate at `step`, counted from 0.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        let schedule =
            Schedule { lr_scheduler_type: self.lr_scheduler_type, warmup_steps: self.warmup_steps };
        schedule.at(step, self.max_steps, self.learning_rate)
    }

    /// Number of rows of the run's order that the steps before `step` use.
    pub fn rows_before(&self, step: u64) -> u64 {
        step * self.batch_size as u64
    }

    /// The start of `step` in a run with the seed `run_seed`. `snapshot` is the digest of the last snapshot.
    pub fn step_start(&self, run_seed: u64, step: u64, snapshot: Hash) -> StepStart {
        StepStart {
            step,
            seed: step_seed(run_seed, step),
            learning_rate: self.learning_rate_at(step),
            data_cursor: self.rows_before(step + 1),
            snapshot,
        }
    }

    fn qzo(&self) -> Qzo {
        Qzo {
            eps: self.zo_eps,
            clip: self.clip,
            probes: self.probes,
            distribution: self.perturbation,
            mode: self.scale_mode,
        }
    }
}
