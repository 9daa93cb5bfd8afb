//! Forward passes. A caller sees [`LanguageModel`]: token ids in, log-probabilities out, on whichever
//! backend the device named; the generic decoder behind it is compiled once per backend.
//!
//! ```text
//! decoder    embeddings, blocks, head; packed sequences, or one that grows
//! blockwise  the same blocks one at a time, for calibration
//! layer      a block; linear, norm and rope are its parts
//! pass       what all blocks share: positions, and which keys a row sees
//! scoring    the answers of a batch from its hidden states
//! sizes      room on the device for passes of different sizes
//! ```
//!
//! The families differ by the config alone: by its numbers, and by the tensors that follow from it.

mod blockwise;
mod decoder;
mod embedding;
mod layer;
mod linear;
pub mod memory;
mod norm;
mod pass;
mod rope;
mod scoring;
mod sizes;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use blockwise::{BlockByBlock, Rows, Stage, Step};

use crate::arch::ModelConfig;
use crate::checkpoint::{Checkpoint, Layout};
use crate::data::{Batch, Sequence, Target};
use crate::device::{ComputeType, Device, DtypeSpec, with_backend};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::zo::direction::{Move, Signs};

/// Bytes of f32 logits that exist at a time, of one kind.
pub const LOGIT_BYTES: usize = 32 << 20;

/// Where the tables of tokens and learned positions are during passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// In their file: the rows of each batch are brought to the device.
    InFile,
    /// On the device, which takes [`table_bytes`] of its memory and spares every pass the rows.
    OnDevice,
}

/// Sequences laid end to end, without padding, and what to score in them.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub tokens: &'a [u32],
    /// Consecutive, covering `tokens`.
    pub sequences: &'a [Sequence],
}

impl<'a> From<&'a Batch> for Input<'a> {
    fn from(batch: &'a Batch) -> Self {
        Self { tokens: &batch.tokens, sequences: &batch.sequences }
    }
}

/// A causal language model whose quantized weights can be perturbed and moved.
pub trait LanguageModel {
    fn config(&self) -> &ModelConfig;

    /// Names of the trained weights, byte-sorted: a name's position is its parameter id.
    fn trained(&self) -> &[String];

    /// `log p(token | what precedes it)` per target, f32, in the order of `targets`, once for each part of
    /// `perturb`: with both signs, those at the first sign come first.
    fn log_probs(&self, input: Input<'_>, targets: &[Target], perturb: Signs) -> Result<Vec<f32>>;

    /// Logits at every position: `[tokens, vocab_size]` row-major.
    fn logits(&self, input: Input<'_>) -> Result<Vec<f32>>;

    /// Moves every trained scale by `noise.coefficient` along the noise.
    fn step(&mut self, noise: Move) -> Result<()>;

    /// The f32 master scales of a trained weight, `[out_features × groups]`.
    fn scales(&self, name: &str) -> Result<Vec<f32>>;

    /// Their number.
    fn scale_count(&self, name: &str) -> Result<usize>;

    /// Replaces them; the length must stay the same.
    fn set_scales(&mut self, name: &str, scales: Vec<f32>) -> Result<()>;

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

/// The type that `spec` stands for on a device.
///
/// # Errors
/// [`Error::Unsupported`] where the device has no such arithmetic.
pub fn compute_type(device: &Device, spec: DtypeSpec) -> Result<ComputeType> {
    match spec {
        // What its rounding does to the projected gradient was measured: scripts/fidelity.py. f16 is never
        // chosen: the activations of some families (Gemma, Qwen) are beyond its range.
        DtypeSpec::Auto if check(device, ComputeType::Bf16).is_ok() => Ok(ComputeType::Bf16),
        DtypeSpec::Auto => Ok(ComputeType::F32),
        DtypeSpec::Fixed(dtype) => check(device, dtype).map(|()| dtype),
    }
}

fn check(device: &Device, dtype: ComputeType) -> Result<()> {
    let supported = with_backend!(device, |B, backend_device| B::supports(dtype, &backend_device));
    if supported {
        return Ok(());
    }
    Err(Error::unsupported(format!("{device} cannot compute in {dtype} on this machine"), "use --dtype f32"))
}

/// Brings a checkpoint onto a device, one tensor at a time.
pub fn load(
    checkpoint: Arc<Checkpoint>,
    device: &Device,
    dtype: ComputeType,
    tables: Tables,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    check(device, dtype)?;
    with_backend!(device, |B, device| load_on::<B>(checkpoint, device, dtype, tables, progress))
}

/// The same on any backend's device that can compute in `dtype`.
pub(crate) fn load_on<B: Kernels>(
    checkpoint: Arc<Checkpoint>,
    device: B::Device,
    dtype: ComputeType,
    tables: Tables,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    Ok(Box::new(decoder::Decoder::<B>::load(checkpoint, device, dtype, tables, progress)?))
}

/// Bytes of a device's memory that [`Tables::OnDevice`] costs.
///
/// # Errors
/// The head is not in the checkpoint.
pub fn table_bytes(checkpoint: &Checkpoint, device: &Device, dtype: ComputeType) -> Result<u64> {
    let config = checkpoint.config();
    let head = format!("{}.weight", config.head());
    let shared = config.tie_word_embeddings && matches!(checkpoint.layout(&head)?, Layout::Dense(_));
    Ok(with_backend!(device, |B, _device| embedding::table_bytes::<B>(config, shared, dtype)))
}

/// A dense checkpoint to be taken through one decoder block at a time.
pub fn block_by_block(
    checkpoint: Arc<Checkpoint>,
    device: &Device,
    dtype: ComputeType,
) -> Result<Box<dyn BlockByBlock>> {
    check(device, dtype)?;
    with_backend!(device, |B, device| {
        Ok(Box::new(blockwise::Blocks::<B>::new(checkpoint, device, dtype)?))
    })
}
