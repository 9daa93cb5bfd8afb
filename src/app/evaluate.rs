//! Measures a model.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::{data, open};
use crate::checkpoint::Checkpoint;
use crate::data::tasks::Task;
use crate::data::{Dataset, Limits, Overlong, TokenizedDataset, Tokenizer, tokens_of_file};
use crate::device::{DeviceSpec, DtypeSpec};
use crate::error::Result;
use crate::eval::perplexity::PerplexityReport;
use crate::eval::score::ScoreReport;
use crate::eval::{self, TaskReport, task};
use crate::model::{LanguageModel, Tables, compute_type};

/// A measurement of a model.
pub struct Evaluation {
    pub model: String,
    pub measure: Measure,
    pub device: DeviceSpec,
    pub dtype: DtypeSpec,
}

/// A kind of measurement.
pub enum Measure {
    /// Accuracy and NLL on the rows of a task.
    Task {
        data: PathBuf,
        task: Task,
        /// Number of rows to measure, from the first; `None`: all.
        limit: Option<usize>,
        /// Treatment of rows that are longer than the model's context; `None`: an error.
        overlong: Option<Overlong>,
    },
    /// Perplexity of a text, in windows of `window` tokens.
    Perplexity {
        text: PathBuf,
        window: usize,
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
            // Only as much of the text is read as the windows need.
            let token_limit = windows.and_then(|windows| windows.checked_mul(*window));
            let tokens = tokenizer.with_special(tokens_of_file(text, &tokenizer, token_limit)?)?;
            let model = load(on_event)?;
            let progress = &mut |done, of| on_event(Event::Evaluate { unit: "windows", done, of });
            eval::perplexity(model.as_ref(), &tokens, *window, *windows, progress).map(Measured::Perplexity)
        }
        Measure::Score { sequences } => {
            let data = Dataset::read(sequences)?;
            let (model, of) = (load(on_event)?, data.rows.len());
            let progress = &mut |done| on_event(Event::Evaluate { unit: "scoring", done, of });
            eval::score(model.as_ref(), &tokenizer, &data, progress).map(Measured::Score)
        }
        Measure::Task { data, task, limit, overlong } => {
            let rows = Rows { data, limit: *limit, overlong: *overlong };
            rows.evaluate(task, &checkpoint, &tokenizer, &load, on_event).map(Measured::Task)
        }
    }
}

type Loader<'a> = &'a dyn Fn(OnEvent<'_>) -> Result<Box<dyn LanguageModel>>;

/// The rows of a task to measure.
struct Rows<'a> {
    data: &'a Path,
    limit: Option<usize>,
    overlong: Option<Overlong>,
}

impl Rows<'_> {
    fn evaluate(
        &self,
        task: &Task,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        load: Loader<'_>,
        on_event: OnEvent<'_>,
    ) -> Result<TaskReport> {
        let mut dataset = Dataset::read(self.data)?;
        dataset.rows.truncate(self.limit.unwrap_or(usize::MAX));
        let limits = Limits { overlong: self.overlong, ..data::model_limits(checkpoint) };
        let data = TokenizedDataset::new(&dataset.rows, task, tokenizer, limits)?;
        on_event(Event::Rows { set: "data", kept: data.examples.len(), lengths: data.lengths });
        let (model, of) = (load(on_event)?, dataset.rows.len());
        let progress = &mut |done| on_event(Event::Evaluate { unit: "rows", done, of });
        let mut report = eval::evaluate(model.as_ref(), task, &data, progress)?;
        if task.is_generation() {
            let rows = &dataset.rows;
            task::evaluate_answers(model.as_ref(), tokenizer, task, rows, &data, &mut report, progress)?;
        }
        Ok(report)
    }
}
