//! The `[train]` table.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::exact::{BodyTraining, Exact};
use super::method::{Method, StepStart};
use super::objective::Objective;
use super::optimizer::OptimizerKind;
use super::parameters::Parameters;
use super::settings::{LearningRate, TailBlocks};
use super::zeroth_order::ZerothOrder;
use crate::arch::{TensorKinds, TrainedTensor};
use crate::checkpoint::Checkpoint;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::model::memory::BackwardWork;
use crate::model::{BackwardPass, BlockInputs, ScaleForm};
use crate::zo::direction::{Distribution, ScaleMode, step_seed};
use crate::zo::estimator::{Estimator, EstimatorKind, Qzo};
use crate::zo::journal::Hash;
use crate::zo::schedule::{LrScheduler, Schedule};

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

    /// The keys of `[train]` that are settings of other methods.
    pub fn foreign_settings(self) -> &'static [&'static str] {
        match self {
            Self::Zo => {
                &["tail_blocks", "body", "body_learning_rate", "parameters", "optimizer", "max_grad_norm"]
            }
            Self::Exact => &["estimator", "zo_eps", "clip", "scale_mode", "perturbation", "probes"],
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

/// The `[train]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Method of training. Without it, a recipe with a setting of zo is a zo run, and any other is exact.
    pub method: MethodKind,
    /// Number of steps of the whole run.
    pub max_steps: u64,
    /// Rows per step.
    pub batch_size: usize,
    /// Parts into which the rows of a step are split, so that only one part is in memory at a time. Default: as few as fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Factor of a step: a number, or "auto". Of zo, 5e-3 is usual in relative mode, 1e-7 in absolute mode. Exact
    /// gradients change the logarithm of a scale: auto is 0.02 / (0.47 · √max_steps), or 0.03 for factors.
    pub learning_rate: LearningRate,
    /// Shape of the learning rate over the run. Default: constant for zo, cosine for exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_scheduler_type: Option<LrScheduler>,
    /// Steps over which the learning rate rises from 0. Default: 0 for zo, a twentieth of the run for exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Lowest learning rate of a schedule that falls, as a share of the highest. Default: 0 for zo, 0.05 for exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
    /// Of zo: the estimator with which losses are turned into a step.
    pub estimator: EstimatorKind,
    /// Of zo: ε, the size of the perturbation at which the two losses of a step are taken.
    pub zo_eps: f64,
    /// Of zo: bound of the projected gradient (directional-derivative clipping); inf switches it off.
    pub clip: f64,
    /// Of zo: whether a step is added to a scale or multiplies it.
    pub scale_mode: ScaleMode,
    /// Of zo: distribution of the directions.
    pub perturbation: Distribution,
    /// Of zo: directions per step.
    pub probes: u32,
    /// Of exact: number of decoder blocks, counted from the last, that are trained, or "all".
    pub tail_blocks: TailBlocks,
    /// Of exact: training of the blocks before the tail: "none", or "zo" in the same passes, with the settings of zo.
    pub body: Body,
    /// Of exact with body = "zo": learning rate of these blocks.
    pub body_learning_rate: f64,
    /// Of exact: what is trained. One of scales, rows and factors, or a list that may also name minima, norms and biases.
    pub parameters: Parameters,
    /// Of exact: the rule that turns gradients into steps.
    pub optimizer: OptimizerKind,
    /// Of exact: bound of the gradient's norm. Each block is bounded by its share, this number divided by the root of the
    /// number of blocks, because a block's scales move before the gradients of the others are known; inf switches it off.
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
}

/// The defaults of zo use relative mode with one ε for all layers. `configs/` holds the paper's settings, in absolute
/// mode.
impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            method: MethodKind::Exact,
            max_steps: 1000,
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
        if self.min_lr_rate.is_some_and(|rate| !(0.0..=1.0).contains(&rate)) {
            return Err(Error::invalid(
                "min_lr_rate is a share of the learning rate",
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

    /// The method of training with its settings, for a model of `blocks` decoder blocks.
    pub fn method<O: Objective>(&self, seed: u64, blocks: usize, inputs: BlockInputs) -> Box<dyn Method<O>> {
        match self.method {
            MethodKind::Zo => Box::new(self.zeroth_order()),
            MethodKind::Exact => Box::new(self.exact(seed, blocks, inputs)),
        }
    }

    /// Zeroth order with its settings.
    pub fn zeroth_order(&self) -> ZerothOrder {
        ZerothOrder { estimator: self.estimator() }
    }

    /// Exact gradients with their settings, for a model of `blocks` decoder blocks.
    pub fn exact(&self, seed: u64, blocks: usize, inputs: BlockInputs) -> Exact {
        let body = (self.body == Body::Zo).then(|| BodyTraining {
            estimator: self.estimator(),
            learning_rate: self.body_learning_rate,
            blocks: blocks - self.backward_pass(blocks, inputs).tail_blocks,
        });
        Exact::new(self.backward_pass(blocks, inputs), self.optimizer, self.max_grad_norm, seed, body)
    }

    /// The backward pass of exact gradients.
    pub fn backward_pass(&self, blocks: usize, inputs: BlockInputs) -> BackwardPass {
        let tail_blocks = match self.tail_blocks {
            TailBlocks::All => blocks,
            TailBlocks::Last(last) => last.min(blocks),
        };
        BackwardPass { tail_blocks, form: self.parameters.form, inputs, body: None }
    }

    /// The tensors of a model that are trained beside the scales.
    ///
    /// # Errors
    /// The model has none of a kind that is to be trained.
    pub fn trained_tensors(&self, checkpoint: &Checkpoint) -> Result<Vec<TrainedTensor>> {
        let blocks = checkpoint.config().num_hidden_layers;
        let tail_blocks = self.backward_pass(blocks, BlockInputs::OnDevice).tail_blocks;
        checkpoint.trained_tensors(self.tensor_kinds(), tail_blocks)
    }

    /// The kinds of tensors that are trained beside the scales.
    fn tensor_kinds(&self) -> TensorKinds {
        match self.method {
            MethodKind::Zo => TensorKinds::default(),
            MethodKind::Exact => self.parameters.tensors,
        }
    }

    fn estimator(&self) -> Estimator {
        match self.estimator {
            EstimatorKind::Qzo => Estimator::Qzo(self.qzo()),
        }
    }

    /// The method and why it is chosen, in a sentence.
    pub fn describe(&self, inputs: BlockInputs) -> String {
        if self.method == MethodKind::Zo {
            return "method zo, as the recipe says: forward passes alone".into();
        }
        let blocks = match self.tail_blocks {
            TailBlocks::All => "all blocks".into(),
            TailBlocks::Last(1) => "the last block".into(),
            TailBlocks::Last(blocks) => format!("the last {blocks} blocks"),
        };
        let mut parameters = match self.parameters.form {
            ScaleForm::Scales => "the scales",
            ScaleForm::Rows => "a factor for the scales of each row",
            ScaleForm::Factors => "factors for the scales of each row and group",
        }
        .to_owned();
        for kind in self.tensor_kinds().iter() {
            parameters += &format!(", {}", kind.name());
        }
        let mut text = format!(
            "method exact, since the loss has a gradient: {parameters} in {blocks}, learning rate {:.2e}",
            self.highest_learning_rate()
        );
        if self.body == Body::Zo {
            text += "; the blocks before them by zeroth order";
        }
        if self.parts() > 1 {
            text += &format!("; the rows of a step in {} parts, to save memory", self.parts());
        }
        if inputs == BlockInputs::OnHost {
            text += "; the inputs of the blocks in host memory";
        }
        text
    }

    /// The memory-relevant facts of the method's backward pass, if it has one.
    pub fn backward_work(&self, blocks: usize, inputs: BlockInputs) -> Option<BackwardWork> {
        (self.method == MethodKind::Exact).then(|| BackwardWork {
            pass: self.backward_pass(blocks, inputs),
            tensors: self.tensor_kinds(),
            moments: self.optimizer.moments(),
            accumulates: self.parts() > 1,
        })
    }

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
                share * distance / (0.47 * (self.max_steps.max(1) as f64).sqrt())
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

    /// Number of parts of a step's rows.
    fn parts(&self) -> usize {
        self.gradient_accumulation_steps.unwrap_or(1)
    }

    /// The first row and the number of rows of each part of `step`, in the run's order.
    pub fn row_parts(&self, step: u64) -> impl Iterator<Item = (u64, usize)> {
        let (rows, parts, first) = (self.batch_size, self.parts(), self.rows_before(step));
        let edge = move |part: usize| part * rows / parts;
        (0..parts).map(move |part| (first + edge(part) as u64, edge(part + 1) - edge(part)))
    }

    /// The batches of `step`, one for each part of its rows.
    pub fn batches<O: Objective>(&self, objective: &mut O, step: u64) -> Vec<O::Batch> {
        self.row_parts(step).map(|(first, rows)| objective.batch(first, rows)).collect()
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
            loss_limit: f64::INFINITY,
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
