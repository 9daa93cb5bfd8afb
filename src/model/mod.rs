//! Forward passes. Callers use [`LanguageModel`]: token ids in, log-probabilities out, on the backend of the given
//! device. The generic decoder behind it is compiled once per backend.
//!
//! ```text
//! language_model   the trait of a causal language model
//! scales           the trained scales of a model, and their updates
//! load             loads a checkpoint onto a device
//! decoder          embeddings, blocks, head; for packed sequences and for growing ones
//! blockwise        the same blocks one at a time, for calibration
//! block            a decoder block and its backward pass; linear, norm and rope are its parts
//! trained          the places of the tensors that are trained beside the scales
//! gradient         what a backward pass computes, and who receives it
//! pass             the inputs that all blocks share: positions, and the keys that each row attends to
//! scoring          log-probabilities of a batch's targets from its hidden states
//! pool_usage       frees pooled buffers between passes of different sizes
//! memory           bytes that a model and its passes need, before anything is loaded
//! ```
//!
//! The model families differ only in their config: in its numbers, and in the tensors that follow from it.

mod block;
mod blockwise;
mod cached;
mod decoder;
mod embedding;
mod gradient;
mod language_model;
mod linear;
pub(crate) mod load;
pub mod memory;
mod norm;
mod pass;
mod pool_usage;
mod rope;
mod scales;
mod scoring;
#[cfg(test)]
mod tests;
mod trained;

pub use crate::kernels::HostFloats;
pub use blockwise::{BlockByBlock, BlockPass, CalibrationStage, SampleRows};
pub use cached::{SPARE_ROWS, cache_rows};
pub use embedding::Tables;
pub use gradient::{BackwardPass, BlockInputs, GradientSink, ScaleForm, ScaleGradient};
pub use language_model::{LanguageModel, ModelInput, Session, check_tokens};
pub use load::{block_by_block, compute_type, load, lone_scales, table_bytes};
pub use scales::{Scales, Update};
pub use scoring::LOGIT_BYTES;
