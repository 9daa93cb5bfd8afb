//! Measures a model.

use std::path::PathBuf;

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::{data, open};
use crate::checkpoint::Checkpoint;
use crate::data::tasks::{Task, TaskConfig};
use crate::data::{DataFiles, Dataset, Limits, Overlong, TokenizedDataset, Tokenizer, tokens_of_file};
use crate::device::{DeviceSpec, DtypeSpec};
use crate::error::{Error, Result};
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
    /// Seed by which rows of a task's own dataset are taken.
    pub seed: u64,
}

/// A kind of measurement.
pub enum Measure {
    /// Accuracy and NLL on the rows of a task.
    Task {
        /// `None`: the dataset of the built-in task.
        data: Option<DataFiles>,
        task: TaskConfig,
        /// Split of a dataset of the hub.
        split: Option<String>,
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
        Measure::Task { data, task, split, limit, overlong } => {
            let own = match data {
                None => data::task_dataset(task.task.as_deref())?,
                Some(_) => None,
            };
            let files = data.as_ref().or(own.as_ref()).ok_or_else(no_data)?;
            let split = split.as_deref().unwrap_or("validation");
            let mut dataset = Dataset::read_all(&open::data_files(files, split, on_event)?)?;
            if own.is_some() && dataset.rows.len() > data::TASK_TEST_ROWS {
                dataset.rows = data::first(dataset.rows, data::TASK_TEST_ROWS, job.seed)?;
            }
            let rows = Rows { dataset, limit: *limit, overlong: *overlong };
            rows.evaluate(task, &checkpoint, &tokenizer, &load, on_event).map(Measured::Task)
        }
    }
}

fn no_data() -> Error {
    Error::invalid(
        "no rows to measure",
        "give --data FILE, or --task NAME for a task with a dataset of its own",
    )
}

type Loader<'a> = &'a dyn Fn(OnEvent<'_>) -> Result<Box<dyn LanguageModel>>;

/// The rows of a task to measure.
struct Rows {
    dataset: Dataset,
    limit: Option<usize>,
    overlong: Option<Overlong>,
}

impl Rows {
    fn evaluate(
        self,
        task: &TaskConfig,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        load: Loader<'_>,
        on_event: OnEvent<'_>,
    ) -> Result<TaskReport> {
        let mut dataset = self.dataset;
        dataset.rows.truncate(self.limit.unwrap_or(usize::MAX));
        let task = &Task::of_rows(task, &dataset.rows, tokenizer)?;
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
