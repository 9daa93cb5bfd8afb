//! Reads `metrics.jsonl`.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// A line of `metrics.jsonl`: a step or an evaluation, which have different keys. A number that was not finite is null.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoggedLine {
    pub step: u64,
    pub loss: Option<f64>,
    pub projected_grad: Option<f64>,
    pub grad_norm: Option<f64>,
    pub lr: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub skipped: bool,
    pub eval_nll: Option<f64>,
    pub eval_accuracy: Option<f64>,
    pub eval_score: Option<f64>,
    pub eval_n: Option<usize>,
}

impl LoggedLine {
    /// Whether the line is that of an evaluation.
    pub fn is_eval(&self) -> bool {
        self.eval_n.is_some()
    }
}

/// Reads the lines of a run; none if there is no file yet. A line that a kill has cut off is left out.
///
/// # Errors
/// The file exists, but cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<LoggedLine>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(Error::io(path, "opening"))?,
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(Error::io(path, "reading"))?;
        lines.extend(serde_json::from_slice::<LoggedLine>(&line));
    }
    Ok(lines)
}
