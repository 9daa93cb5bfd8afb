//! Files ↔ weights. A checkpoint is opened by path, its tensors go by their Hugging Face names
//! (`model.layers.0.self_attn.q_proj.weight`) and in Hugging Face row order whatever the file's, and it
//! is saved in the format it came in. Weights are memory-mapped: nothing is read before it is asked for.
//! Knows no device and no forward pass.
//!
//! ```text
//! mod.rs           Checkpoint: which format is it, and one match arm per format
//! config           the model's numbers; hf_config reads them from config.json, tensors names what follows
//! huggingface      a directory of safetensors
//! scheme/          how its linears are quantized: one file per scheme
//! write            a model in another format: a directory or a .gguf file
//! export           which of a model's weights another format holds; convert gives them its form, plain the
//!                  tensors that are not quantized; workspace keeps what a calibration had done before a kill
//! gguf/            a .gguf file: header, block types, names, metadata
//! shards           the tensors of a directory's files, in containers: safetensors, read and written, and pytorch
//! synthetic        random weights of a known model's shape, in no file at all
//! files            the bytes behind a checkpoint: which file, its digest, its pages; read_ahead its matrices
//! publish          new checkpoints appear whole or not at all; placed writes a file's parts in any order
//! float            bytes ↔ f32; table gives some rows of a matrix; finite refuses NaN and infinity
//! leftover         tensors that the config does not account for; wrapped those that have other names, and adapters
//! ```
//!
//! To add a format: one file with its layout (drawn once, pinned by an assert), one match arm, one
//! fixture from `scripts/fixtures/checkpoints.py` (`scripts/fixtures/packages.py` where a package writes it).
//! Which arm:
//! - a scheme of Hugging Face directories: a file in `scheme`;
//! - a GGUF block type (IQ4_NL, …): a struct in `gguf::blocks::layout`, a variant of `GgmlType`;
//! - another container: a variant of `Source` below.
//!
//! Nothing else in the program knows which formats exist.

mod export;
mod files;
mod finite;
mod float;
mod gguf;
pub mod hub;
mod huggingface;
mod leftover;
mod plain;
mod pytorch;
mod read_ahead;
pub(crate) mod safetensors;
mod scheme;
pub(crate) mod shards;
mod stream;
mod synthetic;
mod table;
mod wrapped;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};

pub use export::{Export, ExportFormat, Exported};
pub use float::Values;
pub use read_ahead::Piece;
pub use scheme::QuantizedFormat;
pub use stream::{Linears, Packed, Passed, Rows};
pub use synthetic::Shape;
pub use write::{MAX_SHARD_BYTES, Target, write};

use crate::arch::{ModelConfig, block_of, hf};
use crate::data::tokenizer::GgufVocab;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::{Levels, PackedLayout, PackedWeight};
use crate::storage::staging::Staging;
use gguf::Gguf;
use huggingface::HuggingFace;
use synthetic::Synthetic;

/// A model's files, opened and checked against its config.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    source: Source,
}

enum Source {
    HuggingFace(HuggingFace),
    Gguf(Gguf),
    Synthetic(Synthetic),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Dense linears.
    HuggingFace,
    Gptq,
    CompressedTensors,
    Awq,
    Aqlm,
    BitsAndBytes,
    Mlx,
    /// qzo's own scheme in such a directory.
    Qzo,
    Gguf,
    Synthetic,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HuggingFace => "Hugging Face",
            Self::Gptq => "GPTQ",
            Self::CompressedTensors => "compressed-tensors",
            Self::Awq => "AWQ",
            Self::Aqlm => "AQLM",
            Self::BitsAndBytes => "bitsandbytes 4-bit",
            Self::Mlx => "MLX",
            Self::Qzo => "qzo codebooks",
            Self::Gguf => "GGUF",
            Self::Synthetic => "random weights",
        })
    }
}

/// A matrix as the file stores it.
#[derive(Debug, Clone, PartialEq)]
pub enum Weight {
    /// `[out, in]`, row-major.
    Dense {
        shape: [usize; 2],
        values: Values,
    },
    Packed(PackedWeight),
}

/// How a matrix lies in memory once it is loaded, known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Dense(FloatType),
    Packed(PackedLayout),
}

/// One line of `qzo inspect`.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSummary {
    /// Hugging Face name.
    pub name: String,
    /// Name in the file.
    pub stored_name: String,
    /// Type in the file's own words: `F16`, `Q4_1`, `GPTQ 4-bit`.
    pub dtype: String,
    /// `[out, in]` for matrices.
    pub shape: Vec<usize>,
    pub bytes: usize,
    pub bits_per_weight: f64,
}

/// Where the tokenizer is.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// tokenizer.json and its companions lie in this directory.
    HuggingFace(PathBuf),
    Gguf(GgufVocab),
}

/// Gives the tuned scales `[out, groups]` of a weight by its name.
pub type ScaleSource<'a> = dyn FnMut(&str) -> Result<Vec<f32>> + 'a;

impl Checkpoint {
    /// Opens a directory with config.json and safetensors files, a .gguf file, or a directory that
    /// holds exactly one .gguf file.
    ///
    /// # Errors
    /// Nothing of the kind there; damaged or unsupported files; a tensor of the model that is missing
    /// or has another shape than the config says.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "opening the model"))?;
        if metadata.is_dir() {
            wrapped::check_directory(path)?;
        } else if let Some(error) = wrapped::single_file(path) {
            return Err(error);
        }
        let (config, source) = if !metadata.is_dir() {
            let (gguf, config) = Gguf::open(path)?;
            (config, Source::Gguf(gguf))
        } else if path.join(hf::CONFIG_FILE).exists() {
            let (directory, config) = HuggingFace::open(path)?;
            (config, Source::HuggingFace(directory))
        } else {
            let (gguf, config) = Gguf::open(&files::only_gguf(path)?)?;
            (config, Source::Gguf(gguf))
        };
        Ok(Self { path: path.to_path_buf(), config, source })
    }

    /// Random weights, symmetric, made when they are asked for: for benchmarks of sizes that no file at
    /// hand has.
    pub fn synthetic(shape: Shape, bits: u32, group_size: usize) -> Self {
        let path = PathBuf::from(format!("random {shape}"));
        Self { path, ..Self::random(shape.config(), bits, group_size) }
    }

    /// The same of any dimensions.
    pub fn random(config: ModelConfig, bits: u32, group_size: usize) -> Self {
        let source = Source::Synthetic(Synthetic::new(&config, bits, group_size));
        Self { path: PathBuf::from("random weights"), config, source }
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn format(&self) -> Format {
        match &self.source {
            Source::HuggingFace(directory) => directory.format(),
            Source::Gguf(_) => Format::Gguf,
            Source::Synthetic(_) => Format::Synthetic,
        }
    }

    /// As it was given to `open`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors of the file, quantized weights as one, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSummary> {
        match &self.source {
            Source::HuggingFace(directory) => directory.tensors(),
            Source::Gguf(gguf) => gguf.tensors(),
            Source::Synthetic(synthetic) => synthetic.tensors(),
        }
        .into_iter()
    }

    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::HuggingFace(directory) => directory.contains(name),
            Source::Gguf(gguf) => gguf.contains(name),
            Source::Synthetic(synthetic) => synthetic.shape(name).is_ok(),
        }
    }

    /// `[out, in]` for matrices.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        match &self.source {
            Source::HuggingFace(directory) => directory.shape(name),
            Source::Gguf(gguf) => gguf.shape(name),
            Source::Synthetic(synthetic) => synthetic.shape(name),
        }
    }

    /// The tensor as f32, row-major in Hugging Face order, however it is stored.
    ///
    /// # Errors
    /// There is none of that name; a value is NaN or infinite.
    pub fn dense(&self, name: &str) -> Result<Vec<f32>> {
        let values = match &self.source {
            Source::HuggingFace(directory) => directory.dense(name),
            Source::Gguf(gguf) => gguf.dense(name),
            Source::Synthetic(synthetic) => synthetic.dense(name),
        }?;
        self.expect_finite(name, float::first_not_finite(&values, |value| value))?;
        Ok(values)
    }

    /// A matrix as it is stored: packed without loss where the file has it quantized.
    ///
    /// # Errors
    /// There is none of that name; a value or a scale is NaN or infinite.
    pub fn weight(&self, name: &str) -> Result<Weight> {
        let weight = match &self.source {
            Source::HuggingFace(directory) => directory.weight(name),
            Source::Gguf(gguf) => gguf.weight(name),
            Source::Synthetic(synthetic) => synthetic.weight(name),
        }?;
        if let Weight::Dense { values, .. } = &weight {
            self.expect_finite(name, values.not_finite())?;
        }
        Ok(weight)
    }

    /// How `weight` will give the matrix.
    pub fn layout(&self, name: &str) -> Result<Layout> {
        match &self.source {
            Source::HuggingFace(directory) => directory.layout(name),
            Source::Gguf(gguf) => gguf.layout(name),
            Source::Synthetic(synthetic) => synthetic.layout(name),
        }
    }

    /// The weights whose scales are trained: the quantized linears inside the decoder blocks,
    /// byte-sorted. A weight's position in this list is its parameter id.
    pub fn trained_names(&self) -> Vec<String> {
        match &self.source {
            Source::HuggingFace(directory) => {
                let within = |name: &&str| block_of(name).is_some();
                directory.packed_names().filter(within).map(str::to_owned).collect()
            }
            Source::Gguf(gguf) => {
                self.config.block_linears().into_iter().filter(|name| gguf.is_quantized(name)).collect()
            }
            Source::Synthetic(_) => self.config.block_linears(),
        }
    }

    /// # Errors
    /// There is no quantized weight whose scales could be trained.
    pub fn check_trainable(&self) -> Result<()> {
        if !self.trained_names().is_empty() {
            return Ok(());
        }
        Err(Error::invalid(
            format!("{} has no quantized weights", self.path.display()),
            match self.format() {
                Format::Gguf => {
                    "use a quantized GGUF (Q4_K_M, Q4_0, Q8_0, …), or quantize the original Hugging Face checkpoint"
                }
                _ => "quantize the model first: `qzo quantize MODEL -o OUT`",
            },
        ))
    }

    /// # Errors
    /// A GGUF file whose vocabulary is missing or damaged.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource> {
        match &self.source {
            Source::HuggingFace(directory) => {
                Ok(TokenizerSource::HuggingFace(directory.directory().to_path_buf()))
            }
            Source::Gguf(gguf) => Ok(TokenizerSource::Gguf(gguf.vocabulary()?)),
            Source::Synthetic(_) => Err(self.no_file()),
        }
    }

    /// What the file's scale type can hold of `scales` (`[out, groups]`), with the levels that then
    /// apply: the weight that reading the saved checkpoint would give. A group whose stored scale is
    /// 0 is constant and keeps it.
    ///
    /// # Errors
    /// The weight is not quantized; another number of scales; one that overflows or is not finite.
    pub fn rounded_scales(&self, name: &str, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        match &self.source {
            Source::HuggingFace(directory) => directory.rounded_scales(name, scales),
            Source::Gguf(gguf) => gguf.rounded_scales(name, scales),
            Source::Synthetic(_) => Err(self.no_file()),
        }
    }

    /// Writes the checkpoint with other scales to the new directory `out`, in the format it came in:
    /// every other byte is the same, unless the scales are stored quantized. A GGUF file keeps its
    /// name inside `out`. `scales` is called for each trained weight, in the order the file stores them, and
    /// again where its parts lie apart.
    ///
    /// # Errors
    /// `out` exists; nothing is quantized; a scale that overflows the file's type or is not finite; a
    /// failing disk. Nothing is left behind.
    pub fn save_tuned(&self, out: &Path, scales: &mut ScaleSource) -> Result<()> {
        self.check_trainable()?;
        let names = self.trained_names();
        match &self.source {
            Source::HuggingFace(directory) => match directory.repacking()? {
                None => directory.save_tuned(out, scales),
                Some(packing) => {
                    let packed = &mut |name: &str| directory.tuned(name, scales(name)?);
                    let packed = Packed::Made(packed);
                    let linears = &mut Linears { names: &names, packed, on_tensor: &mut |_| {} };
                    let target = Target::Quantized(packing);
                    write(self, Staging::new(out)?, &target, MAX_SHARD_BYTES, linears).map(|_| ())
                }
            },
            Source::Gguf(gguf) => gguf.save_tuned(out, &names, scales),
            Source::Synthetic(_) => Err(self.no_file()),
        }
    }

    fn no_file(&self) -> Error {
        Error::invalid(format!("{} is in no file", self.path.display()), "name a checkpoint")
    }
}

impl TensorSummary {
    fn new(name: &str, stored_name: &str, dtype: String, shape: &[usize], bytes: usize) -> Self {
        let elements: usize = shape.iter().product();
        Self {
            name: name.to_owned(),
            stored_name: stored_name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
            bits_per_weight: bytes as f64 * 8.0 / elements.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests;
