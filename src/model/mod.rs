//! Forward passes. A caller sees [`LanguageModel`]: token ids in, log-probabilities out, on whichever
//! backend the device named; the generic decoder behind it is compiled once per backend.
//!
//! ```text
//! language_model   the trait; scales   what training changes, and the one way in which it does
//! load       a checkpoint onto a device, by the backend's name
//! decoder    embeddings, blocks, head; packed sequences, or one that grows
//! blockwise  the same blocks one at a time, for calibration
//! block      a decoder block; linear, norm and rope are its parts
//! pass       what all blocks share: positions, and which keys a row sees
//! scoring    the answers of a batch from its hidden states
//! sizes      memory on the device for passes of different sizes
//! memory     bytes that a model and its passes take, before anything is loaded
//! ```
//!
//! The families differ by the config alone: by its numbers, and by the tensors that follow from it.

mod block;
mod blockwise;
mod decoder;
mod embedding;
mod language_model;
mod linear;
mod load;
pub mod memory;
mod norm;
mod pass;
mod rope;
mod scales;
mod scoring;
mod sizes;
#[cfg(test)]
mod tests;

pub use blockwise::{BlockByBlock, BlockPass, CalibrationStage, SampleRows};
pub use embedding::Tables;
pub use language_model::{LanguageModel, ModelInput, Session, check_tokens};
#[cfg(test)]
pub(crate) use load::load_on;
pub use load::{block_by_block, compute_type, load, lone_scales, table_bytes};
pub use scales::{Scales, Update};
pub use scoring::LOGIT_BYTES;
