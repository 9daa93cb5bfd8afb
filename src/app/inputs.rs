//! The inputs of a run, all of which are read before anything is written.

use std::sync::Arc;

use super::event::OnEvent;
use super::{data, open};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::data::Tokenizer;
use crate::device::{ComputeType, Device};
use crate::error::Result;
use crate::generate::GenerateOptions;
use crate::model::compute_type;
use crate::train::{ObjectiveKind, Score, TrainingData};

/// The model and the rows of a recipe.
pub struct Inputs {
    /// The recipe, with the values that it left open and that follow from the rows.
    pub config: Config,
    pub device: Device,
    pub dtype: ComputeType,
    /// The model that the recipe names; the run may have to quantize it.
    pub source: Arc<Checkpoint>,
    pub tokenizer: Tokenizer,
    pub data: TrainingData,
}

impl Inputs {
    /// Reads the model's tokenizer and the rows, and resolves the device.
    ///
    /// # Errors
    /// The recipe contradicts itself; the model, the rows or the device cannot be used.
    pub fn read(mut config: Config, on_event: OnEvent<'_>) -> Result<Self> {
        config.validate()?;
        let device = config.device.resolve()?;
        let source = open::checkpoint(&config.model, on_event)?;
        let mut tokenizer = open::tokenizer(&source)?;
        let data = data::training_data(&mut config, &source, &mut tokenizer, on_event)?;
        config.train.warn_of_unused(data.train.examples.len());
        let dtype = compute_type(&device, config.dtype)?;
        config.train.check_compute(dtype)?;
        Ok(Self { config, device, dtype, source, tokenizer, data })
    }

    /// The score that the run makes better; `None` for the loss.
    pub fn score(&self) -> Option<Score<'_>> {
        let train = &self.config.train;
        let stop = if self.data.task.is_generation() { vec!["\n".to_owned()] } else { Vec::new() };
        let options = GenerateOptions { max_new_tokens: train.max_new_tokens, stop, ..Default::default() };
        let (kind, command, tokenizer) = (train.objective, train.score_command(), &self.tokenizer);
        (kind != ObjectiveKind::Loss).then_some(Score { kind, command, tokenizer, options })
    }
}
