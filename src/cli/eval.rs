use std::path::{Path, PathBuf};

use clap::Args;

use super::console::Console;
use super::{Common, open};
use crate::checkpoint::Checkpoint;
use crate::data::tasks::{Task, TaskSpec};
use crate::data::{Dataset, LengthReport, Limits, Overlong, TokenizedDataset, Tokenizer, tokens_of_file};
use crate::error::{Error, Result};
use crate::eval::{self, TaskReport, perplexity::PerplexityReport, score::ScoreReport, task};
use crate::model::{LanguageModel, Tables};

/// Measure a model: accuracy on a task, perplexity on a text, or the NLL of given sequences
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["data", "perplexity", "score"]))]
pub struct EvalArgs {
    model: String,
    /// JSONL rows of a task
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    /// Built-in task: sst2, rte, cb, boolq, wsc, wic, multirc, copa, record, squad, drop
    #[arg(long, requires = "data", conflicts_with = "prompt")]
    task: Option<String>,
    /// Prompt with {field} placeholders
    #[arg(long, requires = "data")]
    prompt: Option<String>,
    /// A candidate, as it follows the prompt; once per candidate
    #[arg(long = "choice", requires = "prompt", allow_hyphen_values = true)]
    choices: Vec<String>,
    /// Field with the index of the right choice, or the choice itself [default: label]
    #[arg(long, requires = "prompt")]
    label: Option<String>,
    /// Field with the text that should follow the prompt
    #[arg(long, requires = "prompt", conflicts_with = "choices")]
    completion: Option<String>,
    /// Only the first N rows
    #[arg(long, value_name = "N", requires = "data", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Drop or truncate rows that are longer than the model's context [default: refuse them]
    #[arg(long, value_name = "HOW", requires = "data")]
    overlong: Option<Overlong>,
    /// Report the chosen candidate of every row
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
    /// JSONL rows with `text` or `input_ids`: −log p of every token
    #[arg(long, value_name = "FILE.jsonl")]
    score: Option<PathBuf>,
}

pub fn run(args: &EvalArgs, common: &Common) -> Result<()> {
    let console = common.console();
    let device = open::device(common)?;
    let checkpoint = open::checkpoint(&args.model, console)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let load = || open::model(&checkpoint, &device, common.compute_type(&device)?, Tables::InFile, console);
    if let Some(path) = &args.perplexity {
        // As far as the windows reach, which may take a part of the text.
        let most = args.windows.and_then(|windows| windows.checked_mul(args.window));
        let tokens = tokenizer.with_special(tokens_of_file(path, &tokenizer, most)?)?;
        let report = perplexity(args, load()?.as_ref(), &tokens, console)?;
        return console.result(&report, || {
            let PerplexityReport { perplexity, nll, tokens, window, windows } = report;
            format!("perplexity {perplexity:.4} (NLL {nll:.4} over {tokens} tokens: {windows} windows of {window})")
        });
    }
    if let Some(path) = &args.score {
        let data = Dataset::read(path)?;
        let mut bar = console.progress("scoring", data.rows.len() as u64);
        let report = eval::score(load()?.as_ref(), &tokenizer, &data, &mut |done| bar.set(done as u64))?;
        bar.finish();
        return console.result(&report, || score_lines(&report));
    }
    let Some(path) = &args.data else {
        return Err(Error::Usage("give --data, --perplexity or --score".to_string()));
    };
    let report = evaluate_task(args, path, &checkpoint, &tokenizer, &load, console)?;
    console.result(&report, || describe(&report))
}

fn perplexity(
    args: &EvalArgs,
    model: &dyn LanguageModel,
    tokens: &[u32],
    console: Console,
) -> Result<PerplexityReport> {
    let mut bar = console.progress("windows", 0);
    let report = eval::perplexity(model, tokens, args.window, args.windows, &mut |done, of| {
        bar.set_total(of as u64);
        bar.set(done as u64);
    });
    bar.finish();
    report
}

fn evaluate_task(
    args: &EvalArgs,
    path: &Path,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    load: &dyn Fn() -> Result<Box<dyn LanguageModel>>,
    console: Console,
) -> Result<TaskReport> {
    let task = Task::new(TaskSpec {
        task: args.task.as_deref(),
        prompt: args.prompt.as_deref(),
        choices: (!args.choices.is_empty()).then_some(args.choices.as_slice()),
        label: args.label.as_deref(),
        completion: args.completion.as_deref(),
    })?;
    let mut dataset = Dataset::read(path)?;
    dataset.rows.truncate(args.limit.unwrap_or(usize::MAX));
    let limits = Limits { overlong: args.overlong, ..open::limits(checkpoint) };
    let data = TokenizedDataset::new(&dataset.rows, &task, tokenizer, limits)?;
    let LengthReport { rows, dropped, truncated, .. } = data.lengths;
    if dropped + truncated > 0 {
        console.note(&format!("{dropped} of {rows} rows dropped, {truncated} truncated"));
    }
    let model = load()?;
    let mut bar = console.progress("rows", dataset.rows.len() as u64);
    let mut report = eval::evaluate(model.as_ref(), &task, &data, &mut |done| bar.set(done as u64))?;
    if task.is_generation() {
        let progress = &mut |done| bar.set(done as u64);
        task::evaluate_answers(
            model.as_ref(),
            tokenizer,
            &task,
            &dataset.rows,
            &data,
            &mut report,
            progress,
        )?;
    }
    bar.finish();
    if !args.predictions {
        report.predictions = None;
    }
    Ok(report)
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number from 1 on".to_string())
}

/// A report in one line.
pub fn describe(report: &TaskReport) -> String {
    let accuracy =
        report.accuracy.map(|a| format!("accuracy {a:.4} ± {:.4}, ", report.stderr.unwrap_or(0.0)));
    let f1 = report.f1.map(|f1| format!("F1 {f1:.4}, "));
    format!(
        "{}{}NLL {:.4} on {} rows",
        accuracy.unwrap_or_default(),
        f1.unwrap_or_default(),
        report.nll,
        report.n
    )
}

fn score_lines(report: &ScoreReport) -> String {
    let lines = report.sequences.iter().map(|s| format!("NLL {:.6} over {} tokens", s.nll, s.tokens));
    lines.collect::<Vec<_>>().join("\n")
}
