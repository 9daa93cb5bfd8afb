//! Perplexity of a text: the exponential of the mean NLL of its predicted tokens. The text is cut into windows of equal
//! length that do not overlap, and its tail is dropped; each window predicts all its tokens but the first.

use serde::Serialize;

use super::{log_probs, passes};
use crate::data::{Sequence, Target};
use crate::error::{Error, Result};
use crate::model::{LanguageModel, ModelInput, check_tokens};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerplexityReport {
    pub perplexity: f64,
    /// Nats per predicted token.
    pub nll: f64,
    /// Predicted tokens: windows × (window − 1).
    pub tokens: usize,
    /// Tokens in a window.
    pub window: usize,
    pub windows: usize,
}

/// Measures at most `limit` windows of `window` tokens each; `progress` is given the windows done and their number.
///
/// # Errors
/// A window that the context does not hold, a text shorter than one window, a token outside the vocabulary, and a
/// failure of the model.
pub fn perplexity(
    model: &dyn LanguageModel,
    tokens: &[u32],
    window: usize,
    limit: Option<usize>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PerplexityReport> {
    let context = model.config().max_position_embeddings;
    if window < 2 || window > context {
        return Err(Error::invalid(
            format!("a window of {window} tokens cannot be scored: the model's context holds {context}"),
            format!("use --window between 2 and {context}"),
        ));
    }
    let windows: Vec<&[u32]> = tokens.chunks_exact(window).take(limit.unwrap_or(usize::MAX)).collect();
    if windows.is_empty() {
        return Err(Error::invalid(
            format!("the text has {} tokens, less than one window of {window}", tokens.len()),
            "use a longer text or a smaller --window",
        ));
    }
    windows.iter().try_for_each(|tokens| check_tokens(tokens, model.config().vocab_size))?;
    let mut sum = 0.0;
    for pass in passes(windows.iter().map(|w| w.len())) {
        let read = window - 1;
        let batch = &windows[pass.clone()];
        let tokens: Vec<u32> = batch.iter().flat_map(|w| &w[..read]).copied().collect();
        let sequences: Vec<_> = (0..batch.len()).map(|i| Sequence::alone(i * read..(i + 1) * read)).collect();
        let next = batch.iter().flat_map(|w| &w[1..]);
        let targets: Vec<Target> = (0..).zip(next).map(|(row, &token)| Target { row, token }).collect();
        let log_probs = log_probs(model, ModelInput { tokens: &tokens, sequences: &sequences }, &targets)?;
        sum -= log_probs.iter().map(|l| f64::from(*l)).sum::<f64>();
        progress(pass.end, windows.len());
    }
    let tokens = windows.len() * (window - 1);
    let nll = sum / tokens as f64;
    Ok(PerplexityReport { perplexity: nll.exp(), nll, tokens, window, windows: windows.len() })
}
