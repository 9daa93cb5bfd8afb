use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use super::describe::describe;
use super::progress::Reporter;
use crate::app::evaluate::Measured;
use crate::app::{Evaluation, Measure, TaskMeasure, evaluate};
use crate::data::{DataFiles, Overlong, TaskConfig};
use crate::error::{Error, Result};
use crate::eval::perplexity::PerplexityReport;
use crate::eval::score::ScoreReport;

/// Measure a model: accuracy on a task, perplexity on a text, or the NLL of given sequences
#[derive(Debug, Args)]
pub struct EvalArgs {
    model: String,
    /// Rows of a task: JSONL, JSON, CSV, TSV or parquet (- is standard input), or a dataset of the Hugging Face hub
    /// (org/name, org/name:config); may be given more than once [default: the dataset of --task]
    #[arg(long, value_name = "FILE")]
    data: Vec<String>,
    #[command(flatten)]
    task: TaskConfig,
    /// Split of a dataset of the hub [default: validation]
    #[arg(long)]
    split: Option<String>,
    /// Solved examples before every prompt, taken by the seed from the split `train`, or from --fewshot-data
    #[arg(long, value_name = "K", default_value_t = 0, conflicts_with_all = ["perplexity", "score"])]
    num_fewshot: usize,
    /// Rows of the solved examples
    #[arg(long, value_name = "FILE")]
    fewshot_data: Vec<String>,
    /// Only the first N rows
    #[arg(long, value_name = "N", conflicts_with_all = ["perplexity", "score"], value_parser = at_least_one)]
    limit: Option<usize>,
    /// Drop or truncate rows that are longer than the model's context [default: refuse them]
    #[arg(long, value_name = "HOW", conflicts_with_all = ["perplexity", "score"])]
    overlong: Option<Overlong>,
    /// Also report the predicted candidate or the generated answer of every row
    #[arg(long, conflicts_with_all = ["perplexity", "score"])]
    predictions: bool,
    /// Also write the results as a file of lm-evaluation-harness
    #[arg(long, short, value_name = "FILE.json", conflicts_with_all = ["perplexity", "score"])]
    output: Option<PathBuf>,
    /// Text file, scored in windows
    #[arg(long, value_name = "FILE.txt", conflicts_with_all = ["data", "score"])]
    perplexity: Option<PathBuf>,
    /// Tokens per window [default: 2048, or the model's context where that is shorter]
    #[arg(long, requires = "perplexity")]
    window: Option<usize>,
    /// Only the first N windows
    #[arg(long, value_name = "N", requires = "perplexity", value_parser = at_least_one)]
    windows: Option<usize>,
    /// Sequences to score by −log p of every token: JSONL rows with `text` or `input_ids`
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "data")]
    score: Option<PathBuf>,
}

pub fn run(args: &EvalArgs, common: &Common) -> Result<()> {
    if args.predictions && !common.json {
        tracing::warn!("--predictions is not used: what each row got is printed with --json alone");
    }
    let (model, device, dtype) = (args.model.clone(), common.device(), common.dtype());
    let job = Evaluation { model, measure: args.measure()?, device, dtype, seed: common.seed() };
    let report = match Reporter::new(common.console()).through(|on_event| evaluate(&job, on_event))? {
        Measured::Task(report) if !args.predictions => Measured::Task(report.without_rows()),
        report => report,
    };
    common.console().result(&report, || text(&report))
}

impl EvalArgs {
    /// Whether rows are taken by the seed, from a task's own dataset or as solved examples.
    pub fn is_seeded(&self) -> bool {
        self.num_fewshot > 0 || self.data.is_empty() && self.task.task.is_some()
    }

    fn measure(&self) -> Result<Measure> {
        let is_text = self.perplexity.is_some() || self.score.is_some();
        if is_text && (self.task.is_given() || self.split.is_some()) {
            let what =
                "--task, --prompt, --choice, --label, --completion, --format and --split belong to --data";
            return Err(Error::Usage(what.to_string()));
        }
        if !is_text && self.data.is_empty() && self.task.task.is_none() {
            let what =
                "give --data FILE, --task NAME for a task with its own dataset, --perplexity or --score";
            return Err(Error::Usage(what.to_string()));
        }
        if !self.fewshot_data.is_empty() && self.num_fewshot == 0 {
            return Err(Error::Usage("--fewshot-data needs --num-fewshot K".to_string()));
        }
        if let Some(text) = &self.perplexity {
            let (text, window, windows) = (text.clone(), self.window, self.windows);
            return Ok(Measure::Perplexity { text, window, windows });
        }
        if let Some(sequences) = &self.score {
            return Ok(Measure::Score { sequences: sequences.clone() });
        }
        Ok(Measure::Task(Box::new(TaskMeasure {
            data: (!self.data.is_empty()).then(|| DataFiles(self.data.clone())),
            task: self.task.clone(),
            split: self.split.clone(),
            limit: self.limit,
            overlong: self.overlong,
            num_fewshot: self.num_fewshot,
            fewshot_data: (!self.fewshot_data.is_empty()).then(|| DataFiles(self.fewshot_data.clone())),
            output: self.output.clone(),
        })))
    }
}

fn text(report: &Measured) -> String {
    match report {
        Measured::Task(report) => match report.acc.zip(report.acc_norm) {
            Some((acc, acc_norm)) => {
                format!("{}\nacc {acc:.4}, acc_norm {acc_norm:.4}", describe(report))
            }
            None => describe(report),
        },
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
