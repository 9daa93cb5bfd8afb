//! Accuracy on a task, by the candidate with the highest log-probability per token (MeZO's rule), in whole, or per
//! character (lm-evaluation-harness's rules).

use serde::{Deserialize, Serialize};

use super::{log_probs, passes};
use crate::data::{Batch, Load, LossKind, ScoredExample, Task, TokenizedDataset, TokenizedExample};
use crate::error::Result;
use crate::model::LanguageModel;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// Mean score of an objective without a gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Mean cross-entropy over the candidates, or mean −log p per completion token; in nats.
    pub nll: f64,
    pub choices: Vec<String>,
    /// Results of each row.
    #[serde(flatten, skip_deserializing)]
    pub rows: Option<Box<RowResults>>,
}

/// Results of each row, in order.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RowResults {
    /// Indices of the candidates that each rule takes.
    Choices { predictions: Vec<usize>, acc_predictions: Vec<usize>, acc_norm_predictions: Vec<usize> },
    /// Generated answers.
    Answers { answers: Vec<String> },
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
        rows: Some(Box::new(RowResults::Choices {
            predictions: mean.chosen,
            acc_predictions: sum.chosen,
            acc_norm_predictions: per_character.chosen,
        })),
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
            stderr: accuracy.map(|p| Self::standard_error(p, n)),
            nll,
            choices: task.choices().into_iter().map(str::to_string).collect(),
            ..Self::default()
        }
    }

    /// Standard error of the mean of n yes-or-no answers, as lm-evaluation-harness reports it.
    pub fn standard_error(p: f64, n: usize) -> f64 {
        if n < 2 { 0.0 } else { (p * (1.0 - p) / (n - 1) as f64).sqrt() }
    }

    /// The figure by which evaluations are compared, the lower the better.
    pub fn objective(&self) -> f64 {
        self.score.map_or(self.nll, |score| -score)
    }

    /// The part of the report that metrics hold, too, so that a resumed run reports its earlier evaluations as an
    /// uninterrupted one does.
    pub fn as_logged(self) -> Self {
        Self { acc: None, acc_norm: None, rows: None, ..self }
    }

    /// The report without what each row got.
    pub fn without_rows(self) -> Self {
        Self { rows: None, ..self }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_gold_candidates_is_right() {
        let example = ScoredExample { candidates: vec![0..1, 1..2, 2..3], gold: vec![1, 2] };
        let mut choices = Choices::default();
        (0..3).for_each(|choice| choices.push(&example, choice));
        assert_eq!((choices.accuracy(), choices.chosen), (2.0 / 3.0, vec![0, 1, 2]));
    }
}
