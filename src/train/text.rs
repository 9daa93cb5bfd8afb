//! Training a language model on the rows of a task.

use super::config::TrainConfig;
use super::objective::{LossGradients, Objective};
use crate::data::tasks::Task;
use crate::data::{Batch, LengthReport, Load, LossSum, Row, Sampler, Scoring, TokenizedDataset};
use crate::error::Result;
use crate::eval::{TaskReport, evaluate};
use crate::model::{BackwardPass, GradientSink, LanguageModel, ScaleGradient, Scales};
use crate::zo::direction::Signs;

/// Longest run, in steps, whose batches are all examined to find the widest.
const EXAMINED_STEPS: u64 = 10_000;

/// The task of a run and its tokenized rows.
pub struct TrainingData {
    /// BLAKE3 of the training file as it was parsed; with a dev file, BLAKE3 of the digests of both files. The dev file
    /// is included because it decides which step is the best.
    pub digest: [u8; 32],
    pub task: Task,
    pub train: TokenizedDataset,
    pub dev: Option<TokenizedDataset>,
    /// The rows of which `train` and `dev` are the tokens, where generations are scored by them.
    pub train_rows: Vec<Row>,
    pub dev_rows: Vec<Row>,
}

/// The loss of a task on the rows of a run, which are drawn in an order that follows from the seed.
pub struct TextObjective<'a> {
    data: &'a TrainingData,
    sampler: Sampler,
}

impl<'a> TextObjective<'a> {
    pub fn new(data: &'a TrainingData, seed: u64) -> Self {
        Self { data, sampler: Sampler::new(seed, data.train.examples.len()) }
    }
}

impl Objective for TextObjective<'_> {
    type Model = dyn LanguageModel;
    type Batch = Batch;

    fn batch(&mut self, cursor: u64, size: usize) -> Batch {
        let rows = self.sampler.batch(cursor, size);
        let train = &self.data.train;
        Batch::new(train.loss_kind, rows.iter().map(|&i| &train.examples[i]))
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.tokens.len()
    }

    fn losses(&self, model: &dyn LanguageModel, batch: &Batch, signs: Signs) -> Result<Vec<LossSum>> {
        let log_probs = model.log_probs(batch.into(), &batch.targets, signs)?;
        Ok(batch.losses(&log_probs))
    }

    fn weight(&self, batch: &Batch) -> f64 {
        batch.scoring.weight()
    }

    fn gradient(
        &self,
        model: &mut (dyn LanguageModel + 'static),
        batch: &Batch,
        backward: BackwardPass,
        weight: f64,
        sink: &mut dyn LossGradients,
    ) -> Result<()> {
        batch_gradient(model, batch, backward, weight, sink)
    }

    fn evaluate(
        &self,
        model: &dyn LanguageModel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<TaskReport>> {
        let Some(dev) = &self.data.dev else { return Ok(None) };
        let total = dev.examples.len();
        evaluate(model, &self.data.task, dev, &mut |done| progress(done, total)).map(Some)
    }

    fn recall(&self, n: usize, accuracy: Option<f64>, nll: f64) -> Option<TaskReport> {
        self.data.recalled(n, accuracy, nll)
    }
}

impl TrainingData {
    /// The report of an earlier evaluation on the dev rows.
    pub fn recalled(&self, n: usize, accuracy: Option<f64>, nll: f64) -> Option<TaskReport> {
        let LengthReport { dropped, truncated, .. } = self.dev.as_ref()?.lengths;
        Some(TaskReport { dropped, truncated, ..TaskReport::new(&self.task, n, accuracy, nll) })
    }
}

/// Computes the loss of a batch and its gradients. See [`Objective::gradient`].
pub fn batch_gradient(
    model: &mut (dyn LanguageModel + 'static),
    batch: &Batch,
    backward: BackwardPass,
    weight: f64,
    sink: &mut dyn LossGradients,
) -> Result<()> {
    let mut sink = BatchGradient { scoring: &batch.scoring, weight, sink };
    model.gradient(batch.into(), &batch.targets, backward, &mut sink)
}

/// The loss of a batch between a backward pass and the sink of its gradients.
struct BatchGradient<'a> {
    scoring: &'a Scoring,
    weight: f64,
    sink: &'a mut dyn LossGradients,
}

impl GradientSink for BatchGradient<'_> {
    fn pull(&mut self, log_probs: &[f32]) -> Result<Option<Vec<f32>>> {
        let goes_on = self.sink.goes_on(self.scoring.loss(log_probs));
        Ok(goes_on.then(|| self.scoring.derivatives(log_probs, self.weight)))
    }

    fn block(&mut self, gradients: Vec<ScaleGradient>, scales: &mut dyn Scales) -> Result<()> {
        self.sink.block(gradients, scales)
    }
}

/// The largest load of a forward pass in a run's training, for one sign of the perturbation.
pub fn widest_batch(config: &TrainConfig, seed: u64, train: &TokenizedDataset) -> Load {
    let mut loads = train.loads();
    let largest_part = config.row_parts(0).map(|(_, rows)| rows).max().unwrap_or(0);
    if config.max_steps > EXAMINED_STEPS {
        // Too many batches to examine: assume that the longest rows form one batch.
        loads.sort_by_key(|load| std::cmp::Reverse(load.tokens));
        return loads.into_iter().cycle().take(largest_part).sum();
    }
    let mut sampler = Sampler::new(seed, loads.len());
    let mut batch = |(first, rows)| sampler.batch(first, rows).into_iter().map(|i| loads[i]).sum();
    let batches = (0..config.max_steps).flat_map(|step| config.row_parts(step));
    batches.map(&mut batch).fold(Load::default(), Load::max)
}
