//! Benchmark of the steps of a recipe.

use std::time::Instant;

use serde::Serialize;

use super::times::time_steps;
use crate::app::event::OnEvent;
use crate::app::{data, open};
use crate::config::Config;
use crate::data::TokenizedDataset;
use crate::device::{ComputeType, host, pools};
use crate::error::Result;
use crate::model::{BlockInputs, Tables, compute_type};
use crate::train::{TextObjective, TrainingData};

/// The times of a recipe's steps.
#[derive(Debug, Clone, Serialize)]
pub struct RecipeTimes {
    pub device: String,
    pub dtype: ComputeType,
    pub step_seconds: f64,
    pub step_seconds_min: f64,
    pub tokens_per_batch: f64,
    pub tokens_per_second: f64,
    pub load_seconds: f64,
    pub peak_bytes: Option<u64>,
    pub allocated_bytes: Option<u64>,
    pub losses: Vec<Vec<f64>>,
}

/// Times some steps of a recipe.
///
/// # Errors
/// An input cannot be used, or the device fails.
pub fn recipe(config: &Config, steps: u64, on_event: OnEvent<'_>) -> Result<RecipeTimes> {
    config.validate()?;
    let device = config.device.resolve()?;
    let dtype = compute_type(&device, config.dtype)?;
    config.train.check_compute(dtype)?;
    let clock = Instant::now();
    let checkpoint = open::checkpoint(&config.model, on_event)?;
    let mut tokenizer = open::tokenizer(&checkpoint)?;
    config.data.set_chat_template(&mut tokenizer)?;
    let mut model = open::model(&checkpoint, &device, dtype, Tables::InFile, on_event)?;
    model.train_tensors(config.train.trained_tensors(&checkpoint)?)?;
    let load_seconds = clock.elapsed().as_secs_f64();
    let limits = data::training_limits(&checkpoint, &config.data);
    let mut table = config.data.clone();
    data::choose_dataset(&mut table)?;
    let dataset = data::training_rows(&table, on_event)?;
    let task = table.task(&dataset.rows, &tokenizer)?;
    let train = TokenizedDataset::new(&dataset.rows, &task, &tokenizer, limits)?;
    let data = TrainingData {
        digest: dataset.digest,
        task,
        train,
        dev: None,
        train_rows: Vec::new(),
        dev_rows: Vec::new(),
    };
    let mut objective = TextObjective::new(&data, config.seed);
    let times =
        time_steps(&mut objective, model.as_mut(), &config.train, BlockInputs::OnDevice, config.seed, steps)?;
    Ok(RecipeTimes {
        device: device.to_string(),
        dtype,
        step_seconds: times.median,
        step_seconds_min: times.least,
        tokens_per_batch: times.tokens / steps as f64,
        tokens_per_second: times.tokens_per_second,
        load_seconds,
        peak_bytes: host::peak(),
        allocated_bytes: pools::reserved(&device),
        losses: times.losses,
    })
}
