//! What a model is, apart from its weights and its files: the numbers of its decoder, the tensors that follow from
//! them, and `config.json`, which states those numbers in Hugging Face's words.
//!
//! ```text
//! decoder   the numbers every format states in its own words
//! tensors   which tensors follow from them: names, shapes and roles
//! rope      how the frequencies of rotary position embeddings are stretched for longer contexts
//! hf/       config.json, read and written
//! ```

mod decoder;
pub mod hf;
pub mod rope;
pub mod tensors;

pub use decoder::{Activation, Block, MOST_LAYERS, ModelConfig, SlidingWindow};
pub use rope::RopeScaling;
pub use tensors::{LinearRole, LinearSpec, NormRole, NormSpec, POSITIONS_OFFSET, block_of};
