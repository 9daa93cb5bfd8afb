//! `metrics.jsonl`: one line for every step and every evaluation; the same for other programs, if a recipe asks for it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::Trackers;
use super::directory::RunDir;
use super::method::Gradient;
use super::tensorboard::EventFile;
use crate::error::{Error, Result};
use crate::storage::atomic::{self, write_atomically};
use crate::zo::journal::Record;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MetricLine {
    Eval(LoggedEval),
    Step {
        /// Number of the step, from 1.
        step: u64,
        /// Mean of the step's losses; null if one was not finite.
        loss: Option<f64>,
        #[serde(flatten)]
        gradient: LoggedGradient,
        lr: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens_per_second: Option<f64>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
    },
}

/// An evaluation on the dev set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedEval {
    /// Number of steps done before the evaluation.
    pub step: u64,
    pub eval_nll: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
    /// Mean score of an objective without a gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_score: Option<f64>,
    pub eval_n: usize,
}

/// A line of an earlier call, of which only this is read: the line itself stays as it is.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum EarlierLine {
    Eval(LoggedEval),
    Step { step: u64 },
}

/// The size of the gradient, under a key that depends on how it is measured; null if it was not finite.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LoggedGradient {
    Projected { projected_grad: Option<f64> },
    Norm { grad_norm: Option<f64> },
}

impl From<Gradient> for LoggedGradient {
    fn from(gradient: Gradient) -> Self {
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        match gradient {
            Gradient::Projected(value) => Self::Projected { projected_grad: finite(value) },
            Gradient::Norm(value) => Self::Norm { grad_norm: finite(value) },
        }
    }
}

impl MetricLine {
    /// Makes the line of a journalled step.
    pub fn of(record: &Record, gradient: Gradient, lr: f64, tokens_per_second: Option<f64>) -> Self {
        Self::Step {
            step: record.step + 1,
            loss: Some(record.loss()).filter(|loss| loss.is_finite()),
            gradient: gradient.into(),
            lr,
            tokens_per_second,
            skipped: record.skipped,
        }
    }

    fn to_line(&self) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self).map_err(|error| Error::internal(error.to_string()))?;
        line.push(b'\n');
        Ok(line)
    }
}

/// `metrics.jsonl`, open at its end.
pub struct Metrics {
    path: PathBuf,
    file: File,
    tensorboard: Option<EventFile>,
}

impl Metrics {
    /// Opens the file of a run that has done `done` steps according to its journal. Removes the lines of later steps
    /// and of the evaluation after step `done`, which will be repeated. `missing` makes the lines that a killed run did
    /// not write. Returns the evaluations that remain.
    ///
    /// # Errors
    /// The file cannot be read or written, or `missing` fails.
    pub fn open(
        run: &RunDir,
        done: u64,
        trackers: Trackers,
        missing: &mut dyn FnMut(u64) -> Result<MetricLine>,
    ) -> Result<(Self, Vec<LoggedEval>)> {
        let path = run.metrics();
        let (mut kept, mut evaluations, mut logged) = (Vec::new(), Vec::new(), 0);
        let earlier = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read.map_err(Error::io(&path, "reading"))?,
        };
        for line in earlier.split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(EarlierLine::Eval(evaluation)) if evaluation.step < done => evaluations.push(evaluation),
                Ok(EarlierLine::Step { step }) if step <= done => logged = logged.max(step),
                // Of a step that will be repeated, or cut off by a kill.
                _ => continue,
            }
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
        for step in logged + 1..=done {
            kept.append(&mut missing(step)?.to_line()?);
        }
        write_atomically(&path, &kept)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "opening"))?;
        let events = || EventFile::create(&run.tensorboard(), &kept);
        let tensorboard = trackers.tensorboard.then(events).transpose()?;
        Ok((Self { path, file, tensorboard }, evaluations))
    }

    pub fn write(&mut self, metric: &MetricLine) -> Result<()> {
        let line = metric.to_line()?;
        self.file.write_all(&line).map_err(Error::io(&self.path, "writing"))?;
        if let Some(events) = &mut self.tensorboard {
            events.write(&line)?;
        }
        // Only evaluations are synced: steps are in the journal, too, but this is the only record of evaluations.
        match metric {
            MetricLine::Eval(_) => atomic::sync_data(&self.file, &self.path),
            MetricLine::Step { .. } => Ok(()),
        }
    }
}
