//! Measures a model.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::{data, open};
use crate::checkpoint::Checkpoint;
use crate::data::tasks::Task;
use crate::data::{Dataset, Limits, Overlong, TokenizedDataset, Tokenizer, tokens_of_file};
use crate::device::{DeviceSpec, DtypeSpec};
use crate::error::{Error, Result};
use crate::eval::perplexity::PerplexityReport;
use crate::eval::score::ScoreReport;
use crate::eval::{self, HarnessRun, TaskReport};
use crate::model::{LanguageModel, Tables, compute_type};
use crate::storage::atomic::{create_directory, parent, write_atomically};

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
        /// File for the results in the layout of lm-evaluation-harness.
        output: Option<PathBuf>,
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
        Measure::Task { data, task, limit, overlong, output } => {
            let started = SystemTime::now();
            output.as_deref().map_or(Ok(()), prepare)?;
            let rows = Rows { data, limit: *limit, overlong: *overlong };
            let (report, rows) = rows.evaluate(task, &checkpoint, &tokenizer, &load, on_event)?;
            if let Some(output) = output {
                let dtype = compute_type(&device, job.dtype)?.to_string();
                let (model, device, limit) = (job.model.as_str(), job.device.to_string(), *limit);
                let run = HarnessRun { model, device, dtype, data, rows, limit, started };
                let file = format!("{:#}\n", eval::harness_file(&report, &run));
                write_atomically(output, file.as_bytes())?;
            }
            Ok(Measured::Task(report))
        }
    }
}

/// Makes sure, before a long measurement, that a file can be written at `path`.
fn prepare(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::invalid(
            format!("{} is a directory", path.display()),
            "name a file for the results, such as results.json",
        ));
    }
    create_directory(parent(path))
}

type Loader<'a> = &'a dyn Fn(OnEvent<'_>) -> Result<Box<dyn LanguageModel>>;

/// The rows of a task to measure.
struct Rows<'a> {
    data: &'a Path,
    limit: Option<usize>,
    overlong: Option<Overlong>,
}

impl Rows<'_> {
    /// The report, and the number of rows in the file.
    fn evaluate(
        &self,
        task: &Task,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        load: Loader<'_>,
        on_event: OnEvent<'_>,
    ) -> Result<(TaskReport, usize)> {
        let mut dataset = Dataset::read(self.data)?;
        let rows = dataset.rows.len();
        dataset.rows.truncate(self.limit.unwrap_or(usize::MAX));
        let limits = Limits { overlong: self.overlong, ..data::model_limits(checkpoint) };
        let data = TokenizedDataset::new(&dataset.rows, task, tokenizer, limits)?;
        on_event(Event::Rows { set: "data", kept: data.examples.len(), lengths: data.lengths });
        let (model, of) = (load(on_event)?, dataset.rows.len());
        let progress = &mut |done| on_event(Event::Evaluate { unit: "rows", done, of });
        let mut report = eval::evaluate(model.as_ref(), task, &data, progress)?;
        if task.is_generation() {
            let kept = &dataset.rows;
            eval::evaluate_answers(model.as_ref(), tokenizer, task, kept, &data, &mut report, progress)?;
        }
        Ok((report, rows))
    }
}
