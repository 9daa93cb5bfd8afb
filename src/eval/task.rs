//! Accuracy on a task, by the candidate with the highest log-probability per token (MeZO's rule), in whole, or per
//! character (lm-evaluation-harness's rules); or by comparing greedy generations with the gold answers.

use serde::Serialize;

use super::{log_probs, passes};
use crate::data::{
    Batch, Example, Load, LossKind, Row, ScoredExample, Task, TokenizedDataset, TokenizedExample, Tokenizer,
    metrics,
};
use crate::error::Result;
use crate::generate::{GenerateOptions, generate_batch};
use crate::model::LanguageModel;

/// Longest generated answer, as in MeZO. A line end also ends it.
const MAX_ANSWER_TOKENS: usize = 50;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TaskReport {
    pub task: String,
    /// Rows that were scored.
    pub n: usize,
    /// Rows that are left out because they do not fit into the model's context.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropped: usize,
    /// Rows whose prompt was cut to fit into the model's context.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated: usize,
    /// Share of rows whose prediction is right (exact match for generated answers); null for completions, which are
    /// only scored.
    pub accuracy: Option<f64>,
    /// Standard error of the accuracy.
    pub stderr: Option<f64>,
    /// Share of rows whose candidate with the highest log-probability is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc: Option<f64>,
    /// Share of rows whose candidate with the highest log-probability per character is right. The space before a candidate
    /// does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm: Option<f64>,
    /// Mean token-overlap F1 of generated answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// Standard error of `f1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1_stderr: Option<f64>,
    /// Mean cross-entropy over the candidates, or mean −log p per completion token; in nats.
    pub nll: f64,
    pub choices: Vec<String>,
    /// Index of the chosen candidate of each row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictions: Option<Vec<usize>>,
    /// Index of the candidate of each row that `acc` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_predictions: Option<Vec<usize>>,
    /// Index of the candidate of each row that `acc_norm` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm_predictions: Option<Vec<usize>>,
    /// Generated answer of each row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<String>>,
}

/// Scores every example of `data`; `progress` is given the number of rows done.
///
/// # Errors
/// A failure of the model, and a log-probability that is NaN or infinite.
pub fn evaluate(
    model: &dyn LanguageModel,
    task: &Task,
    data: &TokenizedDataset,
    progress: &mut dyn FnMut(usize),
) -> Result<TaskReport> {
    let lengths = data.examples.iter().map(TokenizedExample::rows);
    let (mut nll, mut weight) = (0.0, 0.0);
    let [mut mean, mut sum, mut per_character] = [(); 3].map(|()| Choices::default());
    for pass in passes(lengths) {
        let examples = &data.examples[pass.clone()];
        let batch = Batch::new(data.loss_kind, examples);
        let log_probs = log_probs(model, (&batch).into(), &batch.targets)?;
        let loss = batch.scoring.loss(&log_probs);
        nll += match data.loss_kind {
            LossKind::Classification => loss.sum,
            // The mean is rounded first. A plain sum would change the last bit, by which the best step is chosen.
            LossKind::Completion => loss.mean() * loss.weight,
        };
        weight += loss.weight;
        for (scored, example) in batch.scoring.examples.iter().zip(examples) {
            mean.push(scored, scored.best(&log_probs, |i| scored.candidates[i].len()));
            sum.push(scored, scored.best(&log_probs, |_| 1));
            per_character.push(scored, scored.best(&log_probs, |i| example.candidates[i].characters.max(1)));
        }
        progress(pass.end);
    }
    let n = data.examples.len();
    let (dropped, truncated) = (data.lengths.dropped, data.lengths.truncated);
    if data.loss_kind == LossKind::Completion {
        return Ok(TaskReport { dropped, truncated, ..TaskReport::new(task, n, None, nll / weight) });
    }
    let accuracy = mean.accuracy();
    Ok(TaskReport {
        dropped,
        truncated,
        acc: Some(sum.accuracy()),
        acc_norm: Some(per_character.accuracy()),
        predictions: Some(mean.chosen),
        acc_predictions: Some(sum.chosen),
        acc_norm_predictions: Some(per_character.chosen),
        ..TaskReport::new(task, n, Some(accuracy), nll / weight)
    })
}

/// The candidates that a rule chooses.
#[derive(Default)]
struct Choices {
    chosen: Vec<usize>,
    right: usize,
}

impl Choices {
    fn push(&mut self, example: &ScoredExample, choice: usize) {
        self.right += usize::from(example.gold.contains(&choice));
        self.chosen.push(choice);
    }

    fn accuracy(&self) -> f64 {
        self.right as f64 / self.chosen.len() as f64
    }
}

/// The largest size of a forward pass of [`evaluate`].
pub fn widest_pass(data: &TokenizedDataset) -> Load {
    let loads = data.loads();
    let passes = passes(loads.iter().map(|load| load.tokens));
    passes.into_iter().map(|pass| loads[pass].iter().copied().sum()).fold(Load::default(), Load::max)
}

impl TaskReport {
    pub fn new(task: &Task, n: usize, accuracy: Option<f64>, nll: f64) -> Self {
        Self {
            task: task.name().to_string(),
            n,
            accuracy,
            stderr: accuracy.map(|p| standard_error(p, n)),
            nll,
            choices: task.choices().into_iter().map(str::to_string).collect(),
            ..Self::default()
        }
    }

    /// The report without what each row got.
    pub fn without_rows(self) -> Self {
        Self { predictions: None, acc_predictions: None, acc_norm_predictions: None, answers: None, ..self }
    }
}

/// Generates an answer to every row that `data` kept, and adds exact match and F1 to `report`.
///
/// # Errors
/// A failure of the model.
pub fn evaluate_answers(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    task: &Task,
    rows: &[Row],
    data: &TokenizedDataset,
    report: &mut TaskReport,
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let stop = vec!["\n".to_string()];
    let options = GenerateOptions { max_new_tokens: MAX_ANSWER_TOKENS, stop, ..Default::default() };
    let (mut prompts, mut golds) = (Vec::new(), Vec::new());
    let mut rows = rows.iter();
    for example in &data.examples {
        let Some(row) = rows.find(|row| row.line == example.line) else { continue };
        let Example::Generation { answers, .. } = task.example(row)? else { continue };
        let [candidate] = example.candidates.as_slice() else { continue };
        prompts.push(candidate.prompt());
        golds.push(answers);
    }
    let generated = generate_batch(model, tokenizer, &prompts, &options, progress)?;
    let answers: Vec<String> = generated.iter().map(|answer| answer.text.trim().to_string()).collect();
    let scores = |metric: fn(&str, &[String]) -> f64| {
        answers.iter().zip(&golds).map(|(answer, golds)| metric(answer, golds)).collect::<Vec<_>>()
    };
    if !answers.is_empty() {
        let (accuracy, _) = mean(&scores(metrics::exact_match));
        let (f1, f1_stderr) = mean(&scores(metrics::f1));
        (report.accuracy, report.stderr) = (Some(accuracy), Some(standard_error(accuracy, answers.len())));
        (report.f1, report.f1_stderr) = (Some(f1), Some(f1_stderr));
        report.answers = Some(answers);
    }
    Ok(())
}

/// Mean, and its standard error from the deviation of the sample.
fn mean(scores: &[f64]) -> (f64, f64) {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    (mean, if scores.len() < 2 { 0.0 } else { (squares / (n - 1.0) / n).sqrt() })
}

/// Standard error of the mean of n yes-or-no answers, as lm-evaluation-harness reports it.
pub(super) fn standard_error(p: f64, n: usize) -> f64 {
    if n < 2 { 0.0 } else { (p * (1.0 - p) / (n - 1) as f64).sqrt() }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}
