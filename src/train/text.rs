//! Training a language model on the rows of a task.

use super::config::TrainConfig;
use super::objective::Objective;
use crate::data::tasks::Task;
use crate::data::{Batch, Load, LossSum, Sampler, TokenizedDataset};
use crate::error::Result;
use crate::eval::{TaskReport, evaluate};
use crate::model::LanguageModel;
use crate::zo::direction::Signs;

/// Steps whose batches are looked at to find the widest.
const PLANNED_STEPS: u64 = 10_000;

/// The rows of a run.
pub struct TrainingData {
    /// BLAKE3 of the files' bytes as they were parsed: of the training rows, and with a dev set of its own of
    /// both digests. The best step is told by the dev set, whose figures compare with no other's.
    pub digest: [u8; 32],
    pub task: Task,
    pub train: TokenizedDataset,
    pub dev: Option<TokenizedDataset>,
}

/// A task's loss on the rows of a run, in the order that its seed gives.
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

    fn evaluate(
        &self,
        model: &dyn LanguageModel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<TaskReport>> {
        let Some(dev) = &self.data.dev else { return Ok(None) };
        let of = dev.examples.len();
        evaluate(model, &self.data.task, dev, &mut |done| progress(done, of)).map(Some)
    }

    fn recall(&self, n: usize, accuracy: Option<f64>, nll: f64) -> Option<TaskReport> {
        Some(TaskReport::new(&self.data.task, n, accuracy, nll))
    }
}

/// The most that one forward pass of a run's training takes, for one sign of the perturbation.
pub fn widest_batch(config: &TrainConfig, seed: u64, train: &TokenizedDataset) -> Load {
    let mut loads = train.loads();
    if config.max_steps > PLANNED_STEPS {
        // Too many to go through: the longest rows that there are.
        loads.sort_by_key(|load| std::cmp::Reverse(load.tokens));
        return loads.into_iter().cycle().take(config.batch_size).sum();
    }
    let mut sampler = Sampler::new(seed, loads.len());
    let mut batch = |step| sampler.batch(step * config.batch_size as u64, config.batch_size);
    let batches = (0..config.max_steps).map(|step| batch(step).into_iter().map(|i| loads[i]).sum());
    batches.fold(Load::default(), Load::max)
}
