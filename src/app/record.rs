//! Records of a run for its report: `run.json` and `examples.jsonl`. Neither is needed to resume it.

use std::io::ErrorKind;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::answers::{AnsweredRow, answer, generated, read_examples, unanswered};
use crate::data::{LossKind, TokenizedExample, Tokenizer};
use crate::device::{ComputeType, Device, host, pools};
use crate::error::{Error, Result};
use crate::eval::{RowResults, TaskReport};
use crate::model::LanguageModel;
use crate::storage::atomic::write_atomically;
use crate::train::{Outcome, RunDir, TrainEvent, TrainingData};

/// Number of dev rows whose answers are written down.
const MOST_EXAMPLES: usize = 10;
/// Longest prompt of such a row, in tokens: the answer to a longer one might need more memory than training.
const LONGEST_PROMPT: usize = 1024;

/// `run.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRecord {
    /// The command line that began the run, and those that resumed it.
    pub commands: Vec<String>,
    /// Version of qzo.
    pub version: String,
    pub device: String,
    pub dtype: String,
    pub threads: usize,
    /// Start of the run, in UTC.
    pub started: String,
    /// Time of the training loop in all calls, without those that were killed.
    pub train_seconds: f64,
    /// Most bytes of the process in the host's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// Bytes that the pools of a card held after training. They never shrink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<TaskReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<TaskReport>,
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    pub last: Option<TaskReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
}

/// The dev rows that are written down, with their numbers: spread over all rows, which may be sorted.
pub fn shown_rows(data: &TrainingData) -> Vec<(usize, &TokenizedExample)> {
    let dev = data.dev.iter().flat_map(|dev| &dev.examples).enumerate();
    let dev: Vec<_> = dev.filter(|(_, row)| row.prompt().len() <= LONGEST_PROMPT).collect();
    let count = dev.len().min(MOST_EXAMPLES);
    (0..count).map(|i| dev[i * dev.len() / count]).collect()
}

/// Keeps the records of a run. If one of them cannot be written, there is a warning and the run goes on.
pub struct Recorder<'a> {
    directory: &'a RunDir,
    tokenizer: &'a Tokenizer,
    record: RunRecord,
    /// The dev rows that are written down.
    rows: Vec<(usize, &'a TokenizedExample)>,
    examples: Vec<AnsweredRow>,
    /// Whether answers are chosen, not generated.
    chosen: bool,
    /// Start of the training loop.
    begun: Option<Instant>,
}

impl<'a> Recorder<'a> {
    /// Begins the records, or goes on with those of the run that is resumed.
    pub fn new(
        directory: &'a RunDir,
        command: Option<&str>,
        (device, dtype): (&Device, ComputeType),
        data: &'a TrainingData,
        tokenizer: &'a Tokenizer,
    ) -> Self {
        let mut record = read_record(directory).unwrap_or_else(|error| {
            warn(&error);
            RunRecord::default()
        });
        record.commands.extend(command.map(str::to_string));
        record.version = env!("CARGO_PKG_VERSION").into();
        (record.device, record.dtype) = (device.to_string(), dtype.to_string());
        record.threads = rayon::current_num_threads();
        if record.started.is_empty() {
            record.started = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        }
        (record.after, record.last) = (None, None);

        let rows = shown_rows(data);
        let chosen = data.dev.as_ref().is_some_and(|dev| dev.loss_kind == LossKind::Classification);
        Self { directory, tokenizer, record, rows, examples: Vec::new(), chosen, begun: None }
    }

    /// Makes the examples. Where answers are generated, `base` gives those that an earlier call has not written down.
    pub fn ask(&mut self, base: &dyn LanguageModel, progress: &mut dyn FnMut(usize, usize)) {
        self.make_examples(base, progress).unwrap_or_else(|error| warn(&error));
    }

    fn make_examples(
        &mut self,
        base: &dyn LanguageModel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let earlier = read_examples(&self.directory.examples())?;
        for (_, row) in &self.rows {
            let mut example = unanswered(row, self.tokenizer)?;
            let known = earlier.iter().find(|known| known.prompt == example.prompt);
            example.before = known.and_then(|known| known.before.clone());
            self.examples.push(example);
        }
        if self.chosen {
            return Ok(());
        }
        let missing =
            self.examples.iter_mut().zip(&self.rows).filter(|(example, _)| example.before.is_none());
        let (missing, rows): (Vec<_>, Vec<_>) = missing.map(|(example, (_, row))| (example, *row)).unzip();
        let answers = generated(base, self.tokenizer, &rows, progress)?;
        missing.into_iter().zip(answers).for_each(|(example, answer)| example.before = Some(answer));
        Ok(())
    }

    /// Takes note of an event of the training loop. The first one comes when the run's directory is locked and known to
    /// belong to this run; before that, nothing is written.
    pub fn observe(&mut self, event: &TrainEvent) {
        let begins = self.begun.is_none();
        self.begun.get_or_insert_with(Instant::now);
        let answered = match event {
            TrainEvent::Evaluated { step: 0, report, .. } if self.chosen => {
                let answers = self.choices(report);
                let examples = self.examples.iter_mut().zip(answers);
                examples.for_each(|(example, answer)| example.before = answer);
                true
            }
            _ => false,
        };
        if begins || answered {
            self.save();
        }
    }

    /// Takes note of the end of the training loop; `outcome` is `None` if it was interrupted or failed.
    pub fn trained(&mut self, outcome: Option<&Outcome>, device: &Device) {
        let Some(begun) = self.begun else { return };
        let seconds = outcome.map_or(begun.elapsed().as_secs_f64(), |outcome| outcome.train_seconds);
        self.record.train_seconds += seconds;
        self.record.peak_bytes = self.record.peak_bytes.max(host::peak());
        self.record.device_bytes = self.record.device_bytes.max(pools::reserved(device));
        if let Some(Outcome { before, after, best_step, .. }) = outcome {
            (self.record.before, self.record.after) =
                (before.clone().map(TaskReport::as_logged), after.clone().map(TaskReport::as_logged));
            self.record.best_step = *best_step;
        }
        self.save();
    }

    /// Takes note of the evaluation of `final/`, which `model` has read back.
    pub fn tuned(
        &mut self,
        report: &TaskReport,
        model: &dyn LanguageModel,
        progress: &mut dyn FnMut(usize, usize),
    ) {
        self.record.last = Some(report.clone().without_rows());
        let answers = match self.chosen {
            true => Ok(self.choices(report)),
            false => {
                let rows: Vec<&TokenizedExample> = self.rows.iter().map(|(_, row)| *row).collect();
                let answers = generated(model, self.tokenizer, &rows, progress);
                answers.map(|answers| answers.into_iter().map(Some).collect())
            }
        };
        let answers = answers.unwrap_or_else(|error| {
            warn(&error);
            Vec::new()
        });
        self.examples.iter_mut().zip(answers).for_each(|(example, answer)| example.after = answer);
        self.save();
    }

    /// The text of the chosen candidate of each row.
    fn choices(&self, report: &TaskReport) -> Vec<Option<String>> {
        let Some(RowResults::Choices { predictions, .. }) = report.rows.as_deref() else { return Vec::new() };
        let choice = |(row, example): &(usize, &TokenizedExample)| {
            answer(example, *predictions.get(*row)?, self.tokenizer).ok()
        };
        self.rows.iter().map(choice).collect()
    }

    fn save(&self) {
        let write = || {
            let internal = |error: serde_json::Error| Error::internal(error.to_string());
            let mut record = serde_json::to_vec_pretty(&self.record).map_err(internal)?;
            record.push(b'\n');
            write_atomically(&self.directory.record(), &record)?;
            let mut lines = Vec::new();
            for example in &self.examples {
                serde_json::to_writer(&mut lines, example).map_err(internal)?;
                lines.push(b'\n');
            }
            if lines.is_empty() { Ok(()) } else { write_atomically(&self.directory.examples(), &lines) }
        };
        write().unwrap_or_else(|error| warn(&error));
    }
}

fn warn(error: &Error) {
    tracing::warn!("the run's report will be incomplete: {error}");
}

/// Reads `run.json`; an empty record if there is none.
///
/// # Errors
/// The file cannot be read.
pub fn read_record(directory: &RunDir) -> Result<RunRecord> {
    let path = directory.record();
    match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(RunRecord::default()),
        Err(error) => Err(Error::io(&path, "reading")(error)),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::damaged(&path, error.to_string())),
    }
}
