//! Writes a model as a Hugging Face directory or a .gguf file, its linears in a given scheme. What is no
//! packed linear is copied as it is; of a directory, so is every other file.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::gguf::blocks::GgmlType;
use super::gguf::model::{self, ModelFile};
use super::huggingface::module;
use super::safetensors::{Dtype, INDEX_FILE, ShardWriter, dtype};
use super::scheme::{Packing, QUANTIZE_CONFIG_FILE};
use super::stream::{Linears, Sink, stream};
use super::{Checkpoint, Format, Source, float};
use crate::arch::hf::{self, CONFIG_FILE};
use crate::data::tokenizer::GgufVocab;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::PackedWeight;
use crate::storage::json;
use crate::storage::json::write_json;
use crate::storage::staging::Staging;

/// Tensors per file where nothing is said, as in transformers.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// What a model is written as.
pub enum Target {
    /// A directory, its packed linears in a scheme.
    Quantized(Box<dyn Packing>),
    /// A directory, its packed linears expanded to f16.
    Dense,
    /// A file, its packed linears in this type.
    Gguf(GgmlType),
}

impl Target {
    /// What the file keeps scales as.
    pub fn scale_dtype(&self) -> FloatType {
        match self {
            Self::Quantized(packing) => packing.scale_dtype(),
            Self::Dense | Self::Gguf(_) => FloatType::F16,
        }
    }

    /// Whether all linears of a dense model can be held, before anything is done.
    ///
    /// # Errors
    /// The source is no dense Hugging Face directory; a linear whose shape does not fit, by its name.
    pub fn check(&self, source: &Checkpoint) -> Result<()> {
        if source.format() != Format::HuggingFace {
            return Err(Error::invalid(
                format!("{} is {} and quantized as it is", source.path().display(), source.format()),
                "quantize the original Hugging Face checkpoint (f32, f16 or bf16), or use this one directly",
            ));
        }
        self.check_linears(source, &source.config().block_linears())
    }

    /// # Errors
    /// A linear whose shape does not fit, by its name; a model that the format has no words for.
    pub fn check_linears(&self, source: &Checkpoint, names: &[String]) -> Result<()> {
        let mut shapes = Vec::with_capacity(names.len());
        for name in names {
            if let &[out, input] = &source.shape(name)?[..] {
                shapes.push((name.clone(), [out, input]));
            }
        }
        match self {
            Self::Dense => Ok(()),
            Self::Gguf(_) => model::check(source.config(), &shapes),
            Self::Quantized(packing) => shapes.iter().try_for_each(|(name, shape)| {
                let unfit = |what| {
                    Error::invalid(format!("{name}: {what}"), "use another group size, or another --format")
                };
                packing.describe(*shape).map(|_| ()).map_err(unfit)
            }),
        }
    }
}

/// Streams `source` to where `staging` publishes it: the packed linears as `linears` gives them, in its
/// order, and every other tensor as it is. Three tensors are in memory at most;
/// what an earlier process wrote to the same place is not asked for again. Gives what [`Sink::finish`] does.
///
/// # Errors
/// A linear failed or is not what `target` can hold; the disk fails. Of temporary staging nothing is left behind.
pub fn write(
    source: &Checkpoint,
    staging: Staging,
    target: &Target,
    max_shard_bytes: u64,
    linears: &mut Linears<'_, '_>,
) -> Result<f32> {
    if let Target::Gguf(kind) = target {
        let file = staging.path().join("model.gguf");
        let name = staging.out().file_stem().unwrap_or_default().to_string_lossy();
        let rounding = stream(source, Box::new(gguf_file(source, &file, &name, *kind, linears)?), linears)?;
        staging.publish_file(&file)?;
        return Ok(rounding);
    }
    let weights = Directory::create(source, staging.path(), target, max_shard_bytes, linears.names)?;
    stream(source, Box::new(weights), linears)?;
    write_other_files(source, staging.path(), target)?;
    staging.publish()?;
    Ok(0.0)
}

/// The weights of a Hugging Face directory.
struct Directory<'a> {
    source: &'a Checkpoint,
    target: &'a Target,
    /// What each packed linear becomes.
    parts: HashMap<String, Vec<Described>>,
    writer: ShardWriter,
}

/// Name, type and shape.
type Described = (String, Dtype, Vec<usize>);

impl<'a> Directory<'a> {
    fn create(
        source: &'a Checkpoint,
        to: &Path,
        target: &'a Target,
        max_shard_bytes: u64,
        linears: &[String],
    ) -> Result<Self> {
        let mut parts = HashMap::new();
        for name in linears {
            parts.insert(name.clone(), describe(source, target, name)?);
        }
        let mut all: Vec<String> = source.plain_names();
        all.retain(|name| !parts.contains_key(name));
        all.extend_from_slice(linears);
        all.sort_unstable();
        let mut header = Vec::new();
        for name in all {
            match parts.get(&name) {
                Some(parts) => header.extend_from_slice(parts),
                None => {
                    let (dtype, shape) = source.plain_layout(&name)?;
                    header.push((name, dtype, shape));
                }
            }
        }
        let writer = ShardWriter::create(to, header, max_shard_bytes)?;
        Ok(Self { source, target, parts, writer })
    }
}

impl Sink for Directory<'_> {
    fn is_due(&self, name: &str) -> bool {
        match self.parts.get(name) {
            Some(parts) => parts.iter().any(|(part, ..)| self.writer.is_due(part)),
            None => self.writer.is_due(name),
        }
    }

    fn plain(&mut self, source: &Checkpoint, name: &str) -> Result<()> {
        self.writer.write(name, &source.plain_bytes(name)?)
    }

    fn packed(&mut self, name: &str, packed: PackedWeight) -> Result<()> {
        let wrong = |what: String| Error::tensor(self.source.path(), name, what);
        let shape = [packed.out_features, packed.in_features];
        if self.source.shape(name)? != shape {
            return Err(wrong(format!("the quantizer gave a weight of shape {shape:?}")));
        }
        let bytes = match self.target {
            Target::Quantized(packing) => packing.encode(&packed).map_err(wrong)?,
            Target::Dense | Target::Gguf(_) => {
                let bytes = float::encode(FloatType::F16, packed.to_dense());
                self.source.expect_finite(name, float::not_finite(FloatType::F16, &bytes))?;
                vec![bytes]
            }
        };
        for ((part, ..), bytes) in self.parts.get(name).into_iter().flatten().zip(bytes) {
            // Of a linear whose other parts were written before.
            if self.writer.is_due(part) {
                self.writer.write(part, &bytes)?;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<f32> {
        self.writer.finish().map(|()| 0.0)
    }
}

/// The tensors that a packed linear becomes: names, types and shapes.
fn describe(source: &Checkpoint, target: &Target, name: &str) -> Result<Vec<Described>> {
    let shape = source.shape(name)?;
    match (target, &shape[..]) {
        (Target::Quantized(packing), &[out, input]) => {
            let parts = packing.describe([out, input]);
            let parts = parts.map_err(|what| Error::tensor(source.path(), name, what))?;
            let named = |(part, dtype, shape)| (format!("{}{part}", module(name)), dtype, shape);
            Ok(parts.into_iter().map(named).collect())
        }
        _ => Ok(vec![(name.to_owned(), dtype(FloatType::F16), shape)]),
    }
}

/// What is no weight: configurations, and the tokenizer.
fn write_other_files(source: &Checkpoint, to: &Path, target: &Target) -> Result<()> {
    let mut config = match &source.source {
        Source::HuggingFace(directory) => {
            directory.copy_other_files(to, &[CONFIG_FILE, QUANTIZE_CONFIG_FILE, INDEX_FILE])?;
            match directory.text_config() {
                Some(text) => text.clone(),
                None => json::parse_json(&directory.directory().join(CONFIG_FILE), directory.config_bytes())?,
            }
        }
        Source::Gguf(gguf) => {
            let vocab = gguf.vocabulary()?;
            write_json(&to.join("tokenizer.json"), &vocab.tokenizer_json()?)?;
            write_json(&to.join("tokenizer_config.json"), &vocab.tokenizer_config())?;
            let json = hf::write::json(source.config(), &vocab)
                .map_err(|what| Error::unsupported(what, "use the original Hugging Face directory"))?;
            write_json(&to.join("generation_config.json"), &hf::write::generation(&vocab))?;
            json
        }
        Source::Synthetic(_) => return Err(source.no_file()),
    };
    let settings = match target {
        Target::Quantized(packing) => Some(packing.settings()),
        Target::Dense | Target::Gguf(_) => None,
    };
    if let Some(config) = config.as_object_mut() {
        config.shift_remove("compression_config");
        config.shift_remove("quantization");
        match &settings {
            Some(settings) => config.insert("quantization_config".into(), settings.clone()),
            None => config.shift_remove("quantization_config"),
        };
    }
    write_json(&to.join(CONFIG_FILE), &config)?;
    match (target, settings) {
        (Target::Quantized(packing), Some(settings)) if packing.has_own_config() => {
            write_json(&to.join(QUANTIZE_CONFIG_FILE), &settings)
        }
        _ => Ok(()),
    }
}

fn gguf_file<'a>(
    source: &'a Checkpoint,
    to: &Path,
    name: &str,
    kind: GgmlType,
    linears: &Linears<'_, '_>,
) -> Result<ModelFile<'a>> {
    let Source::HuggingFace(directory) = &source.source else {
        return Err(Error::invalid(
            format!("{} is no Hugging Face directory", source.path().display()),
            "choose another --format",
        ));
    };
    let vocab = GgufVocab::from_dir(directory.directory(), source.config().vocab_size)?;
    let packed: HashSet<&str> = linears.names.iter().map(String::as_str).collect();
    let dtype = |name: &str| directory.shards().tensor(name)?.float_type();
    ModelFile::create(to, source.config(), name, vocab, kind, &packed, &dtype)
}
