//! Measures a model.

use std::path::PathBuf;

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::measure_task::TaskMeasure;
use super::open;
use crate::data::{Dataset, tokens_of_file};
use crate::device::{DeviceSpec, DtypeSpec};
use crate::error::Result;
use crate::eval::perplexity::PerplexityReport;
use crate::eval::score::ScoreReport;
use crate::eval::{self, TaskReport};
use crate::model::{Tables, compute_type};

/// Tokens of a window, unless the model's context is shorter.
const USUAL_WINDOW: usize = 2048;

/// A measurement of a model.
pub struct Evaluation {
    pub model: String,
    pub measure: Measure,
    pub device: DeviceSpec,
    pub dtype: DtypeSpec,
    /// Seed by which rows are taken from a task's own dataset, and solved examples.
    pub seed: u64,
}

/// A kind of measurement.
pub enum Measure {
    /// Accuracy and NLL on the rows of a task.
    Task(Box<TaskMeasure>),
    /// Perplexity of a text, in windows of `window` tokens; `None`: 2048, or the model's context if that is
    /// shorter.
    Perplexity {
        text: PathBuf,
        window: Option<usize>,
        /// Number of windows to measure, from the first; `None`: all.
        windows: Option<usize>,
    },
    /// −log p of every token of given sequences, which are JSONL rows with `text` or `input_ids`.
    Score { sequences: PathBuf },
}

/// The result of a measurement.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Measured {
    Task(TaskReport),
    Perplexity(PerplexityReport),
    Score(ScoreReport),
}

/// Measures a model.
///
/// # Errors
/// The model, the data or the device cannot be used, or a row does not fit the task.
pub fn evaluate(job: &Evaluation, on_event: OnEvent<'_>) -> Result<Measured> {
    let device = job.device.resolve()?;
    let checkpoint = open::checkpoint(&job.model, on_event)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let load = |on_event: OnEvent<'_>| {
        open::model(&checkpoint, &device, compute_type(&device, job.dtype)?, Tables::InFile, on_event)
    };
    match &job.measure {
        Measure::Perplexity { text, window, windows } => {
            let context = checkpoint.config().max_position_embeddings;
            let window = window.unwrap_or(context.min(USUAL_WINDOW));
            // Only as much of the text is read as the windows need.
            let token_limit = windows.and_then(|windows| windows.checked_mul(window));
            let tokens = tokenizer.with_special(tokens_of_file(text, &tokenizer, token_limit)?)?;
            let model = load(on_event)?;
            let progress = &mut |done, of| on_event(Event::Progress { work: "windows", done, of });
            eval::perplexity(model.as_ref(), &tokens, window, *windows, progress).map(Measured::Perplexity)
        }
        Measure::Score { sequences } => {
            let data = Dataset::read(sequences)?;
            let (model, of) = (load(on_event)?, data.rows.len());
            let progress = &mut |done| on_event(Event::Progress { work: "scoring", done, of });
            eval::score(model.as_ref(), &tokenizer, &data, progress).map(Measured::Score)
        }
        Measure::Task(task) => {
            let dtype = compute_type(&device, job.dtype)?.to_string();
            let about = (job.model.as_str(), device.to_string(), dtype);
            task.measure(about, job.seed, &checkpoint, &tokenizer, &load, on_event).map(Measured::Task)
        }
    }
}
