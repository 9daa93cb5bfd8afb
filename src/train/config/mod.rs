//! The `[train]` table, and what follows from its values.
//!
//! ```text
//! values       numbers that may also be a word
//! parameters   the parameters that exact gradients train
//! method       the method of training with its settings
//! objective    the objective of a run
//! rate         the learning rate of each step
//! rows         the rows of each step
//! trackers     the programs for which the metrics are also written
//! unused       warnings of settings that change nothing
//! ```

mod method;
mod objective;
mod parameters;
mod rate;
mod rows;
mod trackers;
mod unused;
mod values;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use objective::ObjectiveKind;
pub use parameters::{ParameterKind, Parameters};
pub use trackers::Trackers;
pub use values::{LearningRate, TailBlocks};

use super::optimizer::OptimizerKind;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::zo::direction::{Distribution, ScaleMode};
use crate::zo::estimator::EstimatorKind;
use crate::zo::schedule::LrScheduler;

/// Name of a method of training in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// Zeroth order: forward passes alone.
    Zo,
    /// Exact gradients: a backward pass that computes one decoder block at a time again.
    #[default]
    Exact,
}

impl MethodKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Zo => "zo",
            Self::Exact => "exact",
        }
    }

    /// The keys of `[train]` that this method alone reads.
    pub fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Zo => &[
                "estimator",
                "zo_eps",
                "clip",
                "scale_mode",
                "perturbation",
                "probes",
                "objective",
                "command",
                "command_timeout",
                "max_new_tokens",
            ],
            Self::Exact => {
                &["tail_blocks", "body", "body_learning_rate", "parameters", "optimizer", "max_grad_norm"]
            }
        }
    }
}

/// The training of the blocks before the tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// They rest.
    #[default]
    None,
    /// Zeroth order, in the passes of the exact gradients: two for each direction.
    Zo,
}

/// Most rows of a step, steps and epochs that a recipe may ask for: far more than is of use.
const MOST_ROWS: usize = 100_000_000;
const MOST_STEPS: u64 = 1_000_000_000;
const MOST_EPOCHS: f64 = 1e6;

/// The `[train]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Method of training. A recipe without it is trained by zeroth order if it has a setting of zo, else by exact gradients.
    pub method: MethodKind,
    /// Number of steps of the whole run.
    pub max_steps: u64,
    /// How often the run goes through its rows, in place of `max_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_train_epochs: Option<f64>,
    /// Rows per step.
    pub batch_size: usize,
    /// Number of parts into which the rows of a step are split, to save memory: the passes take one part at a time.
    /// Default: as few as fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Factor of a step: a number, or "auto". Zeroth order: auto is 5e-3 in relative mode, 1e-7 in absolute mode. Exact
    /// gradients, whose steps change the logarithm of a scale: auto is 0.02 / (0.47 · √max_steps), and 0.03 instead of
    /// 0.02 for rows and factors; a fifth of that for lion; the rate of 40 steps for shorter runs.
    pub learning_rate: LearningRate,
    /// Shape of the learning rate over the run. Default: constant for zo, cosine for exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_scheduler_type: Option<LrScheduler>,
    /// Steps over which the learning rate rises from 0. Default: 0 for zo, a twentieth of the run for exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Lowest learning rate of a schedule that falls, as a share of the highest rate. Default: 0 for zo, 0.05 for exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
    /// Estimator that turns the losses of a step into the step (zo).
    pub estimator: EstimatorKind,
    /// Size ε of the perturbation at which the two losses of a step are taken (zo).
    pub zo_eps: f64,
    /// Bound of the projected gradient, inf for none (zo): directional-derivative clipping.
    pub clip: f64,
    /// Whether a step is added to a scale or multiplies it (zo).
    pub scale_mode: ScaleMode,
    /// Distribution of the directions (zo).
    pub perturbation: Distribution,
    /// Number of directions per step (zo).
    pub probes: u32,
    /// Objective: loss, or a score without a gradient (zo). The scores are accuracy, of choices; f1 and exact_match, of
    /// generated answers; and command.
    pub objective: ObjectiveKind,
    /// Program with its arguments that scores generations (zo): it reads JSON lines with the keys generation, prompt and row,
    /// and prints a number for each, the higher the better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Seconds that a call of `command` may take (zo).
    pub command_timeout: u64,
    /// Longest generation of a score, in tokens (zo).
    pub max_new_tokens: usize,
    /// Number of decoder blocks that are trained, counted from the last, or "all" (exact).
    pub tail_blocks: TailBlocks,
    /// Training of the blocks before the tail: "none", or "zo" for zeroth order in the same passes, with the settings of
    /// zo (exact).
    pub body: Body,
    /// Learning rate of the blocks before the tail (exact with body = "zo").
    pub body_learning_rate: f64,
    /// Parameters that are trained: scales, rows or factors, or a list that may also name minima, norms and biases (exact).
    pub parameters: Parameters,
    /// Optimizer that turns gradients into steps (exact).
    pub optimizer: OptimizerKind,
    /// Bound of the gradient's norm, inf for none (exact). A block's scales move before the gradients of the others are
    /// known, so that each block has a bound of its own: this number divided by the root of the number of blocks.
    pub max_grad_norm: f64,
    /// Steps between evaluations on the dev set; 0: only before the first step and after the last.
    pub eval_steps: u64,
    /// Steps between snapshots of the scales, which limit how many steps a resumed run repeats; 0: only after the last
    /// step.
    pub save_steps: u64,
    /// Steps between lines of the log; 0: no lines.
    pub logging_steps: u64,
    /// Number of successive steps that may be skipped because a loss was NaN or infinite; one more ends the run.
    pub max_skipped_steps: u64,
    /// Programs for which the metrics are also written: "tensorboard", "none", or a list.
    pub report_to: Trackers,
}

/// The defaults of zo use relative mode with one ε for all layers. `configs/` holds the paper's settings, in absolute
/// mode.
impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            method: MethodKind::Exact,
            max_steps: 1000,
            num_train_epochs: None,
            batch_size: 16,
            gradient_accumulation_steps: None,
            learning_rate: LearningRate::Auto,
            lr_scheduler_type: None,
            warmup_steps: None,
            min_lr_rate: None,
            estimator: EstimatorKind::Qzo,
            zo_eps: 1e-2,
            clip: 100.0,
            scale_mode: ScaleMode::Relative,
            perturbation: Distribution::Gaussian,
            probes: 1,
            objective: ObjectiveKind::Loss,
            command: None,
            command_timeout: 60,
            max_new_tokens: 50,
            tail_blocks: TailBlocks::All,
            body: Body::None,
            body_learning_rate: 5e-3,
            parameters: Parameters::default(),
            optimizer: OptimizerKind::AdamW,
            max_grad_norm: 1.0,
            eval_steps: 100,
            save_steps: 100,
            logging_steps: 10,
            max_skipped_steps: 10,
            report_to: Trackers::default(),
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
        if self.batch_size > MOST_ROWS {
            let what = format!("batch_size is {}: expected at most {MOST_ROWS}", self.batch_size);
            return Err(Error::invalid(what, "16 is usual"));
        }
        if self.max_steps > MOST_STEPS {
            let what = format!("max_steps is {}: expected at most {MOST_STEPS}", self.max_steps);
            return Err(Error::invalid(what, "set max_steps to 1000, for example"));
        }
        if let Some(epochs) = self.num_train_epochs
            && !(epochs > 0.0 && epochs <= MOST_EPOCHS)
        {
            let what =
                format!("num_train_epochs is {epochs}: expected a number above 0, up to {MOST_EPOCHS}");
            return Err(Error::invalid(what, "set num_train_epochs to 2, for example, or set max_steps"));
        }
        let parts = self.parts();
        if parts == 0 || parts > self.batch_size {
            return Err(Error::invalid(
                format!(
                    "gradient_accumulation_steps is {parts}: expected 1 to batch_size, {}",
                    self.batch_size
                ),
                "a step takes batch_size rows, in so many parts",
            ));
        }
        if let LearningRate::Fixed(rate) = self.learning_rate
            && (!rate.is_finite() || rate < 0.0)
        {
            return Err(Error::invalid(
                format!("learning_rate is {rate}: expected \"auto\", 0 or a positive number"),
                match self.method {
                    MethodKind::Zo => "5e-3 is usual in relative mode, 1e-7 in absolute mode",
                    MethodKind::Exact => "leave it out, or write learning_rate = \"auto\"",
                },
            ));
        }
        if self.learning_rate == LearningRate::Auto
            && self.method == MethodKind::Exact
            && self.optimizer == OptimizerKind::Sgd
        {
            return Err(Error::invalid(
                "sgd has no learning rate that fits every model",
                "set train.learning_rate to a number, or use adamw",
            ));
        }
        if let Some(rate) = self.min_lr_rate.filter(|rate| !(0.0..=1.0).contains(rate)) {
            return Err(Error::invalid(
                format!("min_lr_rate is {rate}, but it is a share of the learning rate"),
                "use a number from 0 to 1",
            ));
        }
        if self.body == Body::Zo && (self.method == MethodKind::Zo || self.tail_blocks == TailBlocks::All) {
            return Err(Error::invalid(
                "body = \"zo\" trains the blocks before the tail, but there are none",
                "set train.tail_blocks to a number",
            ));
        }
        let rate = self.body_learning_rate;
        if !rate.is_finite() || rate < 0.0 {
            return Err(Error::invalid(
                format!("body_learning_rate is {rate}: expected 0 or a positive number"),
                "5e-3 is usual in relative mode",
            ));
        }
        if self.max_grad_norm.is_nan() || self.max_grad_norm <= 0.0 {
            return Err(Error::invalid(
                format!("max_grad_norm is {}: expected a positive number", self.max_grad_norm),
                "1.0 is usual; inf switches it off",
            ));
        }
        self.check_objective()?;
        self.qzo().validate()
    }

    /// Checks that the method can compute in a type.
    ///
    /// # Errors
    /// Exact gradients in f16, whose range is too small for them.
    pub fn check_compute(&self, compute: ComputeType) -> Result<()> {
        match (self.method, compute) {
            (MethodKind::Exact, ComputeType::F16) => Err(Error::unsupported(
                "f16 cannot hold exact gradients: its range is too small",
                "use --dtype bf16 or f32, or train.method = \"zo\"",
            )),
            _ => Ok(()),
        }
    }
}
