//! Measures a model on held-out text. Each kind of measurement has a file of its own and a report, whose fields are the
//! keys of `--json`.

pub mod answers;
pub mod harness_file;
pub mod perplexity;
pub mod score;
pub mod task;

pub use answers::evaluate_answers;
pub use harness_file::{HarnessRun, harness_file};
pub use perplexity::perplexity;
pub use score::score;
pub use task::{RowResults, TaskReport, evaluate, widest_pass};

use crate::data::Target;
use crate::error::{Error, Result};
use crate::model::{LanguageModel, ModelInput};
use crate::zo::direction::Signs;

/// Most tokens in a forward pass of an evaluation, unless one sequence alone has more.
const TOKENS_PER_PASS: usize = 1024;

/// Asks the unperturbed model for the log-probabilities of `targets`.
///
/// # Errors
/// A failure of the model, and a log-probability that is NaN or infinite.
fn log_probs(model: &dyn LanguageModel, input: ModelInput<'_>, targets: &[Target]) -> Result<Vec<f32>> {
    let log_probs = model.log_probs(input, targets, Signs::Neither)?;
    match log_probs.iter().find(|l| !l.is_finite()) {
        Some(value) => Err(Error::invalid(
            format!(
                "the model gives a log-probability of {value}: its weights or activations are NaN or infinite"
            ),
            "check the checkpoint, or use --dtype f32",
        )),
        None => Ok(log_probs),
    }
}

/// Groups consecutive sequences into passes whose lengths add up to at most `TOKENS_PER_PASS`.
fn passes(lengths: impl Iterator<Item = usize>) -> Vec<std::ops::Range<usize>> {
    let mut passes: Vec<std::ops::Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, length) in lengths.enumerate() {
        match passes.last_mut() {
            Some(pass) if tokens + length <= TOKENS_PER_PASS => {
                pass.end = i + 1;
                tokens += length;
            }
            _ => {
                passes.push(i..i + 1);
                tokens = length;
            }
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_cover_everything_within_the_limit() {
        assert_eq!(passes([500, 500, 500, 3000, 1, 1].into_iter()), [0..2, 2..3, 3..4, 4..6]);
        assert!(passes(std::iter::empty()).is_empty());
    }
}
