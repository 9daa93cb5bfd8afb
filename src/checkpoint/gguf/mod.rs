//! A .gguf file, its tensors under their Hugging Face names and rows.
//!
//! ```text
//! file      the file or files of a model, opened and checked
//! store     its weights, read
//! header    the structure of a file: key-values and tensor table, every number bounded
//! split     the files of a model that has several
//! blocks    the block types: layouts, expansion, repacking, new scales
//! names     llama.cpp's tensor names and its order of q/k rows
//! keys      the key-values, by type
//! family    llama.cpp's architectures, and what it does for each that no key says
//! rope      rotary position embeddings in key-values and tensors
//! metadata  key-values → ModelConfig and vocabulary
//! model     a whole model written: writer the structure, describe the key-values, encode the blocks
//! ```
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

pub mod blocks;
mod describe;
pub mod encode;
mod family;
mod file;
mod header;
mod keys;
mod metadata;
pub mod model;
mod names;
mod rope;
pub mod split;
mod store;
mod writer;

pub use encode::form;
pub use file::Gguf;

#[cfg(test)]
mod tests;
