//! Benchmark of the steps of a recipe.

use std::time::Instant;

use serde::Serialize;

use super::times::time_steps;
use crate::app::event::OnEvent;
use crate::app::inputs::Inputs;
use crate::app::plan::{Choice, Planner};
use crate::app::{base, open};
use crate::config::Config;
use crate::device::{ComputeType, host, pools};
use crate::error::{Error, Result};
use crate::train::{ScoredObjective, TextObjective};

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

/// Times some steps of a recipe: those that a run of it takes.
///
/// # Errors
/// An input cannot be used, the model is not quantized yet, the run does not fit, or the device fails.
pub fn recipe(config: &Config, steps: u64, on_event: OnEvent<'_>) -> Result<RecipeTimes> {
    let mut read = Inputs::read(config.clone(), on_event)?;
    if base::quantization(&read.config, &read.source, on_event)?.is_some() {
        return Err(Error::invalid(
            "the recipe's model is not quantized: a run would quantize it first",
            "run `qzo quantize`, and name its result with --model",
        ));
    }
    let Choice { parts, inputs, mut plan } = Planner::of(&read).check()?;
    read.config.train.gradient_accumulation_steps = Some(parts);
    let Inputs { config, device, dtype, source, data, .. } = &read;
    let tables = open::tables(&mut plan, source, device, *dtype)?;
    let clock = Instant::now();
    let mut model = open::model(source, device, *dtype, tables, on_event)?;
    model.train_tensors(config.train.trained_tensors(source)?)?;
    let load_seconds = clock.elapsed().as_secs_f64();
    let (model, train, seed) = (model.as_mut(), &config.train, config.seed);
    let times = match read.score() {
        Some(score) => {
            time_steps(&mut ScoredObjective::new(data, score, seed), model, train, inputs, seed, steps)?
        }
        None => time_steps(&mut TextObjective::new(data, seed), model, train, inputs, seed, steps)?,
    };
    Ok(RecipeTimes {
        device: device.to_string(),
        dtype: *dtype,
        step_seconds: times.median,
        step_seconds_min: times.least,
        tokens_per_batch: times.tokens / steps as f64,
        tokens_per_second: times.tokens_per_second,
        load_seconds,
        peak_bytes: host::peak(),
        allocated_bytes: pools::reserved(device),
        losses: times.losses,
    })
}
