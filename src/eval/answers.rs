//! Exact match and F1 of generated answers.

use super::task::{RowResults, TaskReport};
use crate::data::{Example, Row, Task, TokenizedDataset, Tokenizer, metrics};
use crate::error::Result;
use crate::generate::{GenerateOptions, generate_batch};
use crate::model::LanguageModel;

/// Longest generated answer, as in MeZO. A line end also ends it.
const MAX_ANSWER_TOKENS: usize = 50;

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
    for example in &data.examples {
        let Some(row) = rows.get(example.row) else { continue };
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
        (report.accuracy, report.stderr) =
            (Some(accuracy), Some(TaskReport::standard_error(accuracy, answers.len())));
        (report.f1, report.f1_stderr) = (Some(f1), Some(f1_stderr));
        report.rows = Some(Box::new(RowResults::Answers { answers }));
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
