//! A Hugging Face directory: config.json and files of weights, whose linears are dense or quantized in a scheme.
//!
//! ```text
//! directory   the directory, opened and checked
//! store       its weights, read
//! tuned       a copy with other scales, and the files beside the weights
//! ```

mod directory;
mod store;
mod tuned;

pub use directory::HuggingFace;
