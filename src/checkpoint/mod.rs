//! Files ↔ weights. A checkpoint is opened by path; its tensors go by their Hugging Face names
//! (`model.layers.0.self_attn.q_proj.weight`) and have Hugging Face row order, whatever the file's; it is saved in the
//! format it came in. Weights are memory-mapped: nothing is read before it is asked for. Knows no device and no forward
//! pass.
//!
//! ```text
//! opened           Checkpoint: opens a store and adds what all stores have in common
//! store            the interface of a container of weights, which these implement:
//!   huggingface/   a directory with config.json and files of weights
//!   gguf/          a .gguf file
//!   synthetic      random weights of a known model's shape, in no file
//! format, weight   the formats; weights and their layouts as the rest of the program sees them
//! scheme/          how a directory's linears are quantized: one file per scheme
//! shards/          the tensors of a directory's files, which are safetensors or pytorch; tensor is one of them
//! save             a checkpoint with tuned scales; scales_file has such scales alone, apart from their base; trained has
//!                  the tensors that can be trained beside them
//! write            a model in another form (target): a directory or a .gguf file; stream feeds it, read_ahead reads;
//!                  quantized_format has the forms that quantizers write
//! export           a quantized model in another format, its codes unchanged
//! table            rows of a matrix; float converts bytes ↔ f32; finite refuses NaN and infinity
//! fingerprint      digests of the files
//! leftover         tensors that the config does not account for; wrapped, those of wrappers and LoRA adapters
//! hub/             models and datasets on the Hugging Face hub
//! ```
//!
//! To add a format: one file with its layout (drawn once, pinned by an assert), one match arm, one
//! fixture from `scripts/fixtures/checkpoints.py` (`scripts/fixtures/packages.py` where a package writes it).
//! The place of the match arm:
//! - a scheme of Hugging Face directories: a file in `scheme`;
//! - a GGUF block type (IQ4_NL, …): a struct in `gguf::blocks::layout`, a variant of `GgmlType`;
//! - another container: a file that implements `store::Store`, and an arm of [`Checkpoint::open`].
//!
//! Nothing else in the program knows which formats exist.

mod export;
mod fingerprint;
mod finite;
mod float;
mod format;
mod gguf;
pub mod hub;
mod huggingface;
mod leftover;
mod opened;
mod pytorch;
mod quantized_format;
mod read_ahead;
pub(crate) mod safetensors;
mod save;
mod scales_file;
mod scheme;
pub(crate) mod shards;
mod store;
mod stream;
mod synthetic;
mod table;
mod target;
mod tensor;
mod trained;
mod weight;
mod wrapped;
mod write;

pub use export::{Export, ExportFormat, Exported};
pub use float::DenseValues;
pub use format::Format;
pub use opened::Checkpoint;
pub use quantized_format::QuantizedFormat;
pub use read_ahead::RowChunk;
pub use scales_file::{ScalesBase, ScalesFile};
pub use store::TokenizerSource;
pub use stream::{Linears, PackedLinears, Passed, RowReader};
pub use synthetic::ModelShape;
pub use target::WriteTarget;
pub use weight::{Layout, TensorSummary, TunedSource, Weight};
pub use write::{MAX_SHARD_BYTES, write};

#[cfg(test)]
mod tests;
