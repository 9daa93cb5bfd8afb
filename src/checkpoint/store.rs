//! The interface of the containers that a checkpoint's weights can lie in: a Hugging Face directory, a GGUF file, or
//! no file at all. Each implements it in a file of its own; `Checkpoint` adds everything they have in common.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::format::Format;
use super::safetensors::Dtype;
use super::scheme::Packing;
use super::weight::{Layout, TensorSummary, TunedSource, Weight};
use crate::arch::{ModelConfig, TrainedTensor};
use crate::data::tokenizer::GgufVocab;
use crate::error::{Error, Result};
use crate::packed::{FloatType, Levels};
use crate::storage::pages::MappedFile;

/// A container whose tensors were checked against its config. Tensors go by their Hugging Face names, rows in Hugging
/// Face order. Values are not checked for NaN and infinity here.
pub trait Store: Send + Sync {
    fn config(&self) -> &ModelConfig;

    fn format(&self) -> Format;

    /// The mapped files, in their order; none where the weights are in no file.
    fn files(&self) -> &[MappedFile];

    /// The bytes of the files beside `files` that decide how the weights are read: config.json and the settings of its
    /// quantization. None where `files` say everything.
    fn settings(&self) -> Vec<&[u8]> {
        Vec::new()
    }

    /// The place of the tokenizer.
    ///
    /// # Errors
    /// A vocabulary that is missing or damaged; weights that are in no file.
    fn tokenizer(&self) -> Result<TokenizerSource>;

    /// All tensors of the files, quantized weights as one, sorted by name.
    fn tensors(&self) -> Vec<TensorSummary>;

    fn contains(&self, name: &str) -> bool;

    /// `[out, in]` for matrices.
    ///
    /// # Errors
    /// No tensor has that name: this holds for all methods that take one.
    fn shape(&self, name: &str) -> Result<Vec<usize>>;

    /// The form in which `weight` gives a matrix.
    fn layout(&self, name: &str) -> Result<Layout>;

    /// A tensor as f32, row-major.
    fn dense(&self, name: &str) -> Result<Vec<f32>>;

    /// A matrix in its stored form.
    fn weight(&self, name: &str) -> Result<Weight>;

    /// Reads some rows of a matrix as f32 into `values`, whose length is theirs.
    fn rows_into(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<()>;

    /// The weights whose scales are trained: the quantized linears inside the decoder blocks, byte-sorted.
    fn trained_names(&self) -> Vec<String>;

    /// The scales of a quantized weight, `[out, groups]`.
    ///
    /// # Errors
    /// The weight is not quantized; a scale that is not finite.
    fn scales(&self, name: &str) -> Result<Vec<f32>>;

    /// The type in which a tuned copy has the scales of a quantized weight.
    ///
    /// # Errors
    /// The weight is not quantized.
    fn scale_dtype(&self, name: &str) -> Result<FloatType>;

    /// The scales that the file's type can hold of `scales` (`[out, groups]`), and the levels that then apply.
    ///
    /// # Errors
    /// The weight is not quantized; another number of scales; one that overflows or is not finite.
    fn rounded_scales(&self, name: &str, scales: &[f32]) -> Result<(Vec<f32>, Levels)>;

    /// The float minima of a quantized weight's groups, `[out, groups]`, as the file states them.
    ///
    /// # Errors
    /// The weight has none; one that is not finite.
    fn minima(&self, name: &str) -> Result<Vec<f32>>;

    /// Writes a copy to the new directory `out` in which only the bytes of the scales of `names`, of minima that move with
    /// them and of `tensors` (byte-sorted) differ.
    ///
    /// # Errors
    /// `out` exists; a value that the file's type cannot hold; a failing disk.
    fn save_tuned(
        &self,
        out: &Path,
        names: &[String],
        tensors: &[TrainedTensor],
        tuned: &mut TunedSource,
    ) -> Result<()>;

    /// The packing of a tuned copy's linears, where new bytes for the scales are not enough; `None` where they are.
    fn repacking(&self) -> Result<Option<Box<dyn Packing>>> {
        Ok(None)
    }

    /// The tensors that are not trained, as a Hugging Face directory holds them: norms, biases, embeddings, and linears
    /// that are floats. Byte-sorted.
    fn plain_names(&self) -> Vec<String>;

    /// Whether `plain_bytes` lose nothing of the stored tensor.
    fn plain_is_exact(&self, name: &str) -> bool;

    /// Type and shape of a plain tensor.
    fn plain_layout(&self, name: &str) -> Result<(Dtype, Vec<usize>)>;

    /// The bytes of a plain tensor: borrowed from the file where they lie there, rounded to f16 where they are
    /// quantized.
    fn plain_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>>;

    /// The index of the file that a plain tensor is in, and its range there, where reading it can be planned ahead.
    fn position(&self, _name: &str) -> Option<(usize, Range<usize>)> {
        None
    }

    /// The positions of all stored tensors whose names begin with `prefix`.
    fn positions(&self, _prefix: &str) -> Vec<(usize, Range<usize>)> {
        Vec::new()
    }

    /// The name that a tensor has in its file.
    fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        name
    }

    /// The tensors of other parts than the text part, as plain tensors. Only a copy of the whole model has them.
    fn other_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Writes to the directory `to` the files that a Hugging Face directory holds beside its weights (the tokenizer
    /// above all), and gives the config.json that is still to be written, which may name a quantization. With `whole`
    /// it describes the whole model, otherwise its text part alone.
    ///
    /// # Errors
    /// A model that config.json cannot describe; weights that are in no file; a failing disk.
    fn write_companions(&self, to: &Path, whole: bool) -> Result<Value>;
}

/// The place of a tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// The directory of tokenizer.json and its companions.
    HuggingFace(PathBuf),
    Gguf(GgufVocab),
}

/// The error for a use of random weights that needs files.
pub fn in_no_file() -> Error {
    Error::invalid("random weights are in no file", "give the path or id of a checkpoint")
}
