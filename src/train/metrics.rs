//! `metrics.jsonl`: one line for every step and every evaluation.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::directory::RunDir;
use super::method::Gradient;
use crate::error::{Error, Result};
use crate::storage::atomic::{self, write_atomically};
use crate::zo::journal::Record;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MetricLine {
    Eval {
        /// Number of steps done before the evaluation.
        step: u64,
        eval_nll: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        eval_accuracy: Option<f64>,
        eval_n: usize,
    },
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
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
    },
}

/// The size of the gradient, under a key that depends on how it is measured; null if it was not finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

    fn step(&self) -> u64 {
        match self {
            Self::Eval { step, .. } | Self::Step { step, .. } => *step,
        }
    }

    fn is_eval(&self) -> bool {
        matches!(self, Self::Eval { .. })
    }
}

/// `metrics.jsonl`, open at its end.
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file of a run that has done `done` steps according to its journal. Removes the lines of later steps
    /// and of the evaluation after step `done`, which will be repeated. `missing` makes the lines that a killed run did
    /// not write.
    pub fn open(
        run: &RunDir,
        done: u64,
        missing: &mut dyn FnMut(u64) -> MetricLine,
    ) -> Result<(Self, Vec<MetricLine>)> {
        let path = run.metrics();
        let mut kept: Vec<MetricLine> = match File::open(&path) {
            Ok(file) => {
                let lines = BufReader::new(file).lines().map_while(|line| line.ok());
                let metrics = lines.filter_map(|line| serde_json::from_str::<MetricLine>(&line).ok());
                metrics.filter(|m| m.step() < done || (m.step() == done && !m.is_eval())).collect()
            }
            Err(_) => Vec::new(),
        };
        let logged = kept.iter().filter(|m| !m.is_eval()).map(MetricLine::step).max().unwrap_or(0);
        kept.extend((logged + 1..=done).map(missing));
        let lines = kept.iter().map(MetricLine::to_line).collect::<Result<Vec<_>>>()?;
        write_atomically(&path, &lines.concat())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "opening"))?;
        Ok((Self { path, file }, kept))
    }

    pub fn write(&mut self, metric: &MetricLine) -> Result<()> {
        self.file.write_all(&metric.to_line()?).map_err(Error::io(&self.path, "writing"))?;
        // Only evaluations are synced: steps are in the journal, too, but this is the only record of evaluations.
        match metric.is_eval() {
            true => atomic::sync_data(&self.file, &self.path),
            false => Ok(()),
        }
    }
}
