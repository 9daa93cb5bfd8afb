//! Accuracy on a task, by the candidate with the highest mean log-probability per token (MeZO's rule), or by comparing
//! greedy generations with the gold answers.

use serde::{Deserialize, Serialize};

use super::{log_probs, passes};
use crate::data::{
    Batch, Example, Load, LossKind, Row, Task, TokenizedDataset, TokenizedExample, Tokenizer, metrics,
};
use crate::error::Result;
use crate::generate::{GenerateOptions, generate};
use crate::model::LanguageModel;

/// Longest generated answer, as in MeZO. A line end also ends it.
const MAX_ANSWER_TOKENS: usize = 50;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    pub task: String,
    /// Rows that were scored.
    pub n: usize,
    /// Rows that are left out because they do not fit into the model's context.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: usize,
    /// Rows whose prompt was cut to fit into the model's context.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated: usize,
    /// Share of rows whose prediction is right (exact match for generated answers); null for completions, which are
    /// only scored.
    pub accuracy: Option<f64>,
    /// Standard error of the accuracy.
    pub stderr: Option<f64>,
    /// Mean token-overlap F1 of generated answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// Mean cross-entropy over the candidates, or mean −log p per completion token; in nats.
    pub nll: f64,
    pub choices: Vec<String>,
    /// Index of the chosen candidate of each row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictions: Option<Vec<usize>>,
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
    let (mut nll, mut weight, mut correct, mut predictions) = (0.0, 0.0, 0usize, Vec::new());
    for pass in passes(lengths) {
        let batch = Batch::new(data.loss_kind, &data.examples[pass.clone()]);
        let log_probs = log_probs(model, (&batch).into(), &batch.targets)?;
        let loss = batch.scoring.loss(&log_probs);
        nll += match data.loss_kind {
            LossKind::Classification => loss.sum,
            // The mean is rounded first. A plain sum would change the last bit, by which the best step is chosen.
            LossKind::Completion => loss.mean() * loss.weight,
        };
        weight += loss.weight;
        correct += batch.scoring.correct(&log_probs).iter().filter(|c| **c).count();
        predictions.extend(batch.scoring.predictions(&log_probs));
        progress(pass.end);
    }
    let n = data.examples.len();
    let scored = data.loss_kind == LossKind::Classification;
    let accuracy = scored.then(|| correct as f64 / n as f64);
    let predictions = scored.then_some(predictions);
    let report = TaskReport::new(task, n, accuracy, nll / weight);
    Ok(TaskReport { predictions, dropped: data.lengths.dropped, truncated: data.lengths.truncated, ..report })
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
            dropped: 0,
            truncated: 0,
            accuracy,
            stderr: accuracy.map(|p| Self::standard_error(p, n)),
            f1: None,
            nll,
            choices: task.choices().into_iter().map(str::to_string).collect(),
            predictions: None,
        }
    }

    /// Standard error of the mean of n yes-or-no answers, as lm-evaluation-harness reports it.
    pub fn standard_error(p: f64, n: usize) -> f64 {
        if n < 2 { 0.0 } else { (p * (1.0 - p) / (n - 1) as f64).sqrt() }
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
    let options = GenerateOptions { max_new_tokens: MAX_ANSWER_TOKENS, ..Default::default() };
    let (mut exact, mut f1, mut n) = (0.0, 0.0, 0);
    let mut rows = rows.iter();
    for example in &data.examples {
        let Some(row) = rows.find(|row| row.line == example.line) else { continue };
        let Example::Generation { answers, .. } = task.example(row)? else { continue };
        let [candidate] = example.candidates.as_slice() else { continue };
        let answer =
            generate(model, tokenizer, candidate.prompt(), &options, &mut |text| !text.contains('\n'))?;
        let answer = answer.text.split('\n').next().unwrap_or_default().trim();
        exact += metrics::exact_match(answer, &answers);
        f1 += metrics::f1(answer, &answers);
        n += 1;
        progress(n);
    }
    if n > 0 {
        let accuracy = exact / n as f64;
        report.accuracy = Some(accuracy);
        report.stderr = Some(TaskReport::standard_error(accuracy, n));
        report.f1 = Some(f1 / n as f64);
    }
    Ok(())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}
