use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use super::describe::describe;
use super::progress::Reporter;
use crate::app::evaluate::Measured;
use crate::app::{Evaluation, Measure, evaluate};
use crate::data::{Overlong, Task, TaskConfig};
use crate::error::{Error, Result};
use crate::eval::perplexity::PerplexityReport;
use crate::eval::score::ScoreReport;

/// Measure a model: accuracy on a task, perplexity on a text, or the NLL of given sequences
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["data", "perplexity", "score"]))]
pub struct EvalArgs {
    model: String,
    /// JSONL rows of a task
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    #[command(flatten)]
    task: TaskConfig,
    /// Only the first N rows
    #[arg(long, value_name = "N", requires = "data", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Drop or truncate rows that are longer than the model's context [default: refuse them]
    #[arg(long, value_name = "HOW", requires = "data")]
    overlong: Option<Overlong>,
    /// Also report the predicted candidate of every row
    #[arg(long, requires = "data")]
    predictions: bool,
    /// Text file, scored in windows
    #[arg(long, value_name = "FILE.txt")]
    perplexity: Option<PathBuf>,
    /// Tokens per window
    #[arg(long, default_value_t = 2048, requires = "perplexity")]
    window: usize,
    /// Only the first N windows
    #[arg(long, value_name = "N", requires = "perplexity", value_parser = at_least_one)]
    windows: Option<usize>,
    /// Sequences to score by −log p of every token: JSONL rows with `text` or `input_ids`
    #[arg(long, value_name = "FILE.jsonl")]
    score: Option<PathBuf>,
}

pub fn run(args: &EvalArgs, common: &Common) -> Result<()> {
    let (model, device, dtype) = (args.model.clone(), common.device(), common.dtype());
    let job = Evaluation { model, measure: args.measure()?, device, dtype };
    let mut report = Reporter::new(common.console()).through(|on_event| evaluate(&job, on_event))?;
    if let Measured::Task(report) = &mut report
        && !args.predictions
    {
        report.predictions = None;
    }
    common.console().result(&report, || text(&report))
}

impl EvalArgs {
    fn measure(&self) -> Result<Measure> {
        if let Some(text) = &self.perplexity {
            let (text, window, windows) = (text.clone(), self.window, self.windows);
            return Ok(Measure::Perplexity { text, window, windows });
        }
        if let Some(sequences) = &self.score {
            return Ok(Measure::Score { sequences: sequences.clone() });
        }
        let Some(data) = self.data.clone() else {
            return Err(Error::Usage("give --data, --perplexity or --score".to_string()));
        };
        let task = Task::new(&self.task)?;
        Ok(Measure::Task { data, task, limit: self.limit, overlong: self.overlong })
    }
}

fn text(report: &Measured) -> String {
    match report {
        Measured::Task(report) => describe(report),
        Measured::Score(report) => score_lines(report),
        Measured::Perplexity(report) => {
            let PerplexityReport { perplexity, nll, tokens, window, windows } = report;
            format!(
                "perplexity {perplexity:.4} (NLL {nll:.4} over {tokens} tokens: {windows} windows of {window})"
            )
        }
    }
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number of at least 1".to_string())
}

fn score_lines(report: &ScoreReport) -> String {
    let lines = report.sequences.iter().map(|s| format!("NLL {:.6} over {} tokens", s.nll, s.tokens));
    lines.collect::<Vec<_>>().join("\n")
}
