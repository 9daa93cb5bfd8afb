//! The description of a model, apart from its weights: the settings of its decoder, the tensors that follow from
//! them, and `config.json`, which states them in Hugging Face's words.
//!
//! ```text
//! family    the families of models, their kinds of blocks, and the facts of each that hold in every format
//! decoder   a model's dimensions and settings
//! tensors   the tensors that follow from them: names, shapes and roles; trained, those that are trained beside scales
//! rope      scaling of rotary position embeddings for longer contexts
//! hf/       config.json, read and written
//! ```

mod decoder;
mod family;
pub mod hf;
pub mod rope;
pub mod tensors;
mod trained;

pub use decoder::{Activation, MOST_LAYERS, ModelConfig, SlidingWindow};
pub use family::{BlockKind, Family, QkNorm};
pub use rope::{RopeScaling, Yarn};
pub use tensors::{LinearRole, LinearSpec, NormRole, NormSpec, POSITIONS_OFFSET, block_of};
pub use trained::{TensorKind, TensorKinds, TrainedTensor};
