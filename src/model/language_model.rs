//! The trait of a causal language model, whatever device it is on.

use super::scales::Scales;
use crate::arch::ModelConfig;
use crate::data::{Batch, Sequence, Target};
use crate::error::{Error, Result};
use crate::zo::direction::Signs;

/// Sequences laid end to end, without padding, and what to score in them.
#[derive(Debug, Clone, Copy)]
pub struct ModelInput<'a> {
    pub tokens: &'a [u32],
    /// Consecutive, covering `tokens`.
    pub sequences: &'a [Sequence],
}

impl<'a> From<&'a Batch> for ModelInput<'a> {
    fn from(batch: &'a Batch) -> Self {
        Self { tokens: &batch.tokens, sequences: &batch.sequences }
    }
}

/// A causal language model whose quantized weights can be perturbed, and whose scales can be trained.
pub trait LanguageModel: Scales {
    fn config(&self) -> &ModelConfig;

    /// `log p(token | the tokens before it)` per target, f32, in the order of `targets`, once for each part of
    /// `signs`: with both signs, those at the first sign come first.
    fn log_probs(&self, input: ModelInput<'_>, targets: &[Target], signs: Signs) -> Result<Vec<f32>>;

    /// Logits at every position: `[tokens, vocab_size]` row-major.
    fn logits(&self, input: ModelInput<'_>) -> Result<Vec<f32>>;

    /// A sequence that grows token by token, with its keys and values kept.
    fn session(&self) -> Box<dyn Session + '_>;
}

/// See [`LanguageModel::session`].
pub trait Session {
    /// Appends tokens and returns the logits after the last of them, `[vocab_size]`.
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;
}

/// Whether the model has all of the tokens, before any of them is looked up.
///
/// # Errors
/// A token that it does not have: the tokenizer has more than the embeddings.
pub fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<()> {
    match tokens.iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(Error::invalid(
            format!("token {token} is outside the model's vocabulary of {vocab_size}"),
            "check that the tokenizer belongs to the model",
        )),
        None => Ok(()),
    }
}
