//! The trait of a causal language model on any device.

use super::gradient::{BackwardPass, GradientSink};
use super::scales::Scales;
use crate::arch::{ModelConfig, TrainedTensor};
use crate::data::{Batch, Sequence, Target};
use crate::error::{Error, Result};
use crate::zo::direction::Signs;

/// Sequences that are packed end to end, without padding.
#[derive(Debug, Clone, Copy)]
pub struct ModelInput<'a> {
    pub tokens: &'a [u32],
    /// Consecutive sequences that cover `tokens`.
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

    /// `log p(token | the tokens before it)` of each target, in the order of `targets`, once for each part of `signs`:
    /// with both signs, the results at the first sign come first.
    fn log_probs(&self, input: ModelInput<'_>, targets: &[Target], signs: Signs) -> Result<Vec<f32>>;

    /// Runs a forward pass as [`Self::log_probs`] does in training, and then a backward pass: gives `sink` the
    /// log-probabilities of the targets, and for the derivatives that it returns the gradients of the scales of each
    /// block.
    ///
    /// # Errors
    /// The device or the sink fails.
    fn gradient(
        &mut self,
        input: ModelInput<'_>,
        targets: &[Target],
        backward: BackwardPass,
        sink: &mut dyn GradientSink,
    ) -> Result<()>;

    /// Makes these tensors, byte-sorted by name, those that are trained beside the scales: backward passes that reach their
    /// blocks give their gradients, too.
    ///
    /// # Errors
    /// The model has no such tensor.
    fn train_tensors(&mut self, tensors: Vec<TrainedTensor>) -> Result<()>;

    /// Logits at every position: `[tokens, vocab_size]`, row-major.
    fn logits(&self, input: ModelInput<'_>) -> Result<Vec<f32>>;

    /// Starts sequences that grow as tokens are fed. `signs` has one part.
    fn session(&self, signs: Signs) -> Box<dyn Session + '_>;

    /// Bytes of a token's keys and values in a session, in all layers together.
    fn cached_bytes(&self) -> usize;
}

/// Growing sequences, whose keys and values are cached. Each has a number of the caller's choice.
pub trait Session {
    /// Appends tokens to sequences; a new number begins a sequence. Returns the logits after the last token of each part,
    /// `[parts, vocab_size]`.
    fn feed(&mut self, parts: &[(usize, &[u32])]) -> Result<Vec<f32>>;

    /// Forgets a sequence.
    fn end(&mut self, sequence: usize);
}

/// Checks that all tokens are in the model's vocabulary.
///
/// # Errors
/// A token is outside the vocabulary, because the tokenizer has more tokens than the embeddings.
pub fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<()> {
    match tokens.iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(Error::invalid(
            format!("token {token} is outside the model's vocabulary of {vocab_size}"),
            "check that the tokenizer belongs to the model",
        )),
        None => Ok(()),
    }
}
