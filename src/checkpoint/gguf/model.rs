//! Writes a whole model as a .gguf file.
//!
//! Matrices keep their type, and vectors become F32, as llama.cpp requires; packed linears are written in blocks. Before
//! the first tensor is written, the new file is opened like any other, and the model is refused if its settings are not
//! read back the same: GGUF has no key for some of them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use super::blocks::GgmlType;
use super::describe;
use super::encode::{self, BLOCK, Encoded};
use super::family::Architecture;
use super::file::Gguf;
use super::names::{self, RowOrder};
use super::rope;
use super::writer;
use crate::arch::{ModelConfig, RopeScaling};
use crate::checkpoint::float;
use crate::checkpoint::opened::Checkpoint;
use crate::checkpoint::stream::Sink;
use crate::data::tokenizer::GgufVocab;
use crate::error::{Error, Result};
use crate::packed::{FloatType, PackedWeight};
use crate::storage::placed::PlacedFile;

/// A .gguf file that is being written.
pub struct ModelFile<'a> {
    config: &'a ModelConfig,
    architecture: Architecture,
    kind: GgmlType,
    file: PlacedFile,
    /// The furthest that a minimum was rounded, in units of its scale.
    rounding: f32,
}

/// Checks that a model with these packed linears (`[out, in]`) can be written.
///
/// # Errors
/// A family that llama.cpp does not have; a linear whose rows do not fill blocks.
pub fn check(config: &ModelConfig, linears: &[(String, [usize; 2])]) -> Result<()> {
    Architecture::of_model(config)?;
    let unfit = linears.iter().find(|(_, [_, input])| !input.is_multiple_of(BLOCK));
    unfit.map_or(Ok(()), |(name, [_, input])| {
        Err(Error::invalid(
            format!("{name}: rows of {input} features do not fill GGUF's blocks of {BLOCK}"),
            "choose another --format",
        ))
    })
}

impl<'a> ModelFile<'a> {
    /// Creates the file and writes everything but the weights. `name` is the model's; the `packed` linears are written as
    /// `kind`; `dtype` gives the type of the other matrices.
    ///
    /// # Errors
    /// A model that GGUF cannot describe; the disk fails.
    pub fn create(
        path: &Path,
        config: &'a ModelConfig,
        name: &str,
        vocab: GgufVocab,
        kind: GgmlType,
        packed: &HashSet<&str>,
        dtype: &dyn Fn(&str) -> Result<FloatType>,
    ) -> Result<Self> {
        let architecture = Architecture::of_model(config)?;
        let mut tensors = Vec::new();
        let factors = rope::tensors(config);
        for (name, factors) in &factors {
            tensors.push(((*name).to_owned(), GgmlType::Float(FloatType::F32), vec![factors.len()]));
        }
        for (name, shape) in config.tensors() {
            let kind = match shape.len() {
                2 if packed.contains(name.as_str()) => kind,
                2 => GgmlType::Float(dtype(&name)?),
                _ => GgmlType::Float(FloatType::F32),
            };
            tensors.push((stored_name(config, &name)?, kind, shape));
        }
        let metadata = describe::metadata(config, architecture, name, kind, vocab);
        let mut file = writer::create(path, &metadata, &tensors)?;
        for (name, factors) in factors {
            if file.is_due(name) {
                file.write(name, &float::encode(FloatType::F32, factors))?;
            }
        }
        check_same(config, architecture, &Gguf::open(path)?.config)?;
        Ok(Self { config, architecture, kind, file, rounding: 0.0 })
    }
}

impl Sink for ModelFile<'_> {
    fn is_due(&self, name: &str) -> bool {
        let stored = names::from_hugging_face(name, self.config.block);
        stored.is_some_and(|stored| self.file.is_due(&stored))
    }

    fn plain(&mut self, source: &Checkpoint, name: &str) -> Result<()> {
        let stored = stored_name(self.config, name)?;
        let order = RowOrder::of(&stored, self.config.head_dim, self.architecture.interleaves());
        let offset = if name.contains("norm") { self.config.norm_offset } else { 0.0 };
        let shape = source.shape(name)?;
        let bytes = match shape.len() {
            1 => {
                Cow::Owned(float::encode(FloatType::F32, source.dense(name)?.into_iter().map(|v| v + offset)))
            }
            _ => source.plain_bytes(name)?,
        };
        if order == RowOrder::HuggingFace {
            return self.file.write(&stored, &bytes);
        }
        let stride = bytes.len() / shape[0].max(1);
        let mut moved = vec![0; bytes.len()];
        for (row, bytes) in bytes.chunks_exact(stride).enumerate() {
            moved[order.in_file(row) * stride..][..stride].copy_from_slice(bytes);
        }
        self.file.write(&stored, &moved)
    }

    fn packed(&mut self, name: &str, packed: PackedWeight) -> Result<()> {
        let stored = stored_name(self.config, name)?;
        let order = RowOrder::of(&stored, self.config.head_dim, self.architecture.interleaves());
        let Encoded { bytes, minimum_rounding } = encode::encode(self.kind, packed, order)
            .map_err(|what| Error::invalid(format!("{name}: {what}"), "choose another --format"))?;
        self.rounding = self.rounding.max(minimum_rounding);
        self.file.write(&stored, &bytes)
    }

    fn finish(self: Box<Self>) -> Result<f32> {
        self.file.finish().map(|()| self.rounding)
    }
}

fn stored_name(config: &ModelConfig, name: &str) -> Result<String> {
    names::from_hugging_face(name, config.block).ok_or_else(|| {
        Error::unsupported(format!("llama.cpp has no tensor like `{name}`"), "choose another --format")
    })
}

/// # Errors
/// The settings that were read from the file differ from the model's.
fn check_same(config: &ModelConfig, architecture: Architecture, read: &ModelConfig) -> Result<()> {
    let mut wanted = ModelConfig {
        family: read.family,
        bos_token_id: read.bos_token_id,
        eos_token_ids: read.eos_token_ids.clone(),
        norm_offset: 0.0,
        ..config.clone()
    };
    if let Some(RopeScaling::Llama3 { .. }) = wanted.rope_scaling {
        wanted.rope_scaling = Some(RopeScaling::Factors(config.rope_divisors()));
    }
    match &mut wanted.sliding_window {
        Some(_) if architecture.has_window() => {}
        window => {
            if let Some(window) = window.take().filter(|w| w.length < config.max_position_embeddings) {
                tracing::warn!(
                    "llama.cpp has no sliding windows for {}: with more than {} tokens it will give other results",
                    config.family.architecture(),
                    window.length
                );
            }
        }
    }
    let wanted = wanted.rounded_as(read);
    if wanted == *read {
        return Ok(());
    }
    let (wanted, read) = (format!("{wanted:#?}"), format!("{read:#?}"));
    let lines = wanted.lines().zip(read.lines()).filter(|(wanted, read)| wanted != read);
    let lines: Vec<String> = lines
        .take(3)
        .map(|(wanted, read)| format!("{} (llama.cpp: {})", wanted.trim(), read.trim()))
        .collect();
    Err(Error::unsupported(
        format!("llama.cpp computes {} differently: {}", config.family.architecture(), lines.join("; ")),
        "choose another --format",
    ))
}
