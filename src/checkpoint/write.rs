//! Writes a model as a Hugging Face directory or a .gguf file, its linears in a given scheme. Tensors that are no packed
//! linears are copied as they are, and so are a directory's other files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::format::Format;
use super::gguf::blocks::GgmlType;
use super::gguf::model::{self, ModelFile};
use super::opened::Checkpoint;
use super::safetensors::{ShardWriter, TensorDescription, dtype};
use super::scheme::{Packing, QUANTIZE_CONFIG_FILE};
use super::store::TokenizerSource;
use super::stream::{Linears, Sink, stream};
use super::target::WriteTarget;
use super::tensor::module;
use super::weight::Layout;
use super::{finite, float};
use crate::arch::hf::CONFIG_FILE;
use crate::data::tokenizer::GgufVocab;
use crate::error::{Error, Result};
use crate::packed::{FloatType, PackedWeight};
use crate::storage::json::write_json;
use crate::storage::staging::Staging;

/// The default for the bytes of a file's tensors, the same as in transformers.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

impl WriteTarget {
    /// Checks that all linears of a dense model fit the form, before anything is done.
    ///
    /// # Errors
    /// The source is no dense Hugging Face directory; a linear whose shape does not fit, by its name.
    pub fn check(&self, source: &Checkpoint) -> Result<()> {
        if source.format() != Format::HuggingFace {
            return Err(Error::invalid(
                format!("{} is {} and quantized already", source.path().display(), source.format()),
                "quantize the original Hugging Face checkpoint (f32, f16 or bf16), or use this one directly",
            ));
        }
        self.check_linears(source, &source.config().block_linears())
    }

    /// Checks that these linears fit the form.
    ///
    /// # Errors
    /// A linear whose shape does not fit, by its name; a model that the format cannot describe.
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
            Self::Quantized(packing) | Self::Repacked(packing) => {
                shapes.iter().try_for_each(|(name, shape)| {
                    let unfit = |what| {
                        Error::invalid(
                            format!("{name}: {what}"),
                            "use another group size, or another --format",
                        )
                    };
                    packing.describe(*shape).map(|_| ()).map_err(unfit)
                })
            }
        }
    }
}

/// Streams `source` to `staging` and publishes it: the packed linears as `linears` gives them, in its order, and every
/// other tensor as it is. At most three tensors are in memory; linears that an earlier process wrote to the same place
/// are not asked for again. Returns the result of `Sink::finish`.
///
/// # Errors
/// A linear that failed, or that `target` cannot hold; the disk fails. A temporary staging leaves nothing behind.
pub fn write(
    source: &Checkpoint,
    staging: Staging,
    target: &WriteTarget,
    max_shard_bytes: u64,
    linears: &mut Linears<'_, '_>,
) -> Result<f32> {
    if let WriteTarget::Gguf(kind) = target {
        let file = staging.path().join("model.gguf");
        // For the reader of the file only.
        let name = staging.out().file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
        let rounding = stream(source, Box::new(gguf_file(source, &file, &name, *kind, linears)?), linears)?;
        staging.publish_file(&file)?;
        return Ok(rounding);
    }
    let mut weights =
        DirectoryWriter::create(source, staging.path(), target, max_shard_bytes, linears.names)?;
    weights.replaced = std::mem::take(&mut linears.replaced);
    stream(source, Box::new(weights), linears)?;
    write_settings(source, staging.path(), target)?;
    staging.publish()?;
    Ok(0.0)
}

/// The weights of a Hugging Face directory that is being written.
struct DirectoryWriter<'a> {
    source: &'a Checkpoint,
    target: &'a WriteTarget,
    /// The tensors of each packed linear, with their names in the result.
    parts: HashMap<String, Vec<TensorDescription>>,
    /// The bytes of tensors that are not copied from the source.
    replaced: BTreeMap<String, Vec<u8>>,
    writer: ShardWriter,
}

impl<'a> DirectoryWriter<'a> {
    fn create(
        source: &'a Checkpoint,
        to: &Path,
        target: &'a WriteTarget,
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
        if let WriteTarget::Repacked(_) = target {
            all.append(&mut source.store().other_names());
        }
        let mut header = Vec::new();
        for name in all {
            match parts.get(&name) {
                Some(parts) => header.extend_from_slice(parts),
                None => {
                    let (dtype, shape) = source.plain_layout(&name)?;
                    header.push((written_name(source, target, &name).to_owned(), dtype, shape));
                }
            }
        }
        let writer = ShardWriter::create(to, header, max_shard_bytes)?;
        Ok(Self { source, target, parts, replaced: BTreeMap::new(), writer })
    }
}

impl Sink for DirectoryWriter<'_> {
    fn is_due(&self, name: &str) -> bool {
        match self.parts.get(name) {
            Some(parts) => parts.iter().any(|(part, ..)| self.writer.is_due(part)),
            None => self.writer.is_due(written_name(self.source, self.target, name)),
        }
    }

    fn plain(&mut self, source: &Checkpoint, name: &str) -> Result<()> {
        let written = written_name(source, self.target, name);
        match self.replaced.get(name) {
            Some(bytes) => self.writer.write(written, bytes),
            None => self.writer.write(written, &source.plain_bytes(name)?),
        }
    }

    fn packed(&mut self, name: &str, packed: PackedWeight) -> Result<()> {
        let wrong = |what: String| Error::tensor(self.source.path(), name, what);
        let shape = [packed.out_features, packed.in_features];
        if self.source.shape(name)? != shape {
            return Err(wrong(format!("the quantizer gave a weight of shape {shape:?}")));
        }
        let bytes = match self.target {
            WriteTarget::Quantized(packing) | WriteTarget::Repacked(packing) => {
                packing.encode(&packed).map_err(wrong)?
            }
            WriteTarget::Dense | WriteTarget::Gguf(_) => {
                let bytes = float::encode(FloatType::F16, packed.to_dense());
                finite::expect(self.source.path(), name, float::not_finite(FloatType::F16, &bytes))?;
                vec![bytes]
            }
        };
        for ((part, ..), bytes) in self.parts.get(name).into_iter().flatten().zip(bytes) {
            // Not due where an earlier process wrote only some parts of the linear.
            if self.writer.is_due(part) {
                self.writer.write(part, &bytes)?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<f32> {
        if let WriteTarget::Repacked(_) = self.target {
            for name in self.source.store().other_names() {
                self.writer.write(&name, &self.source.plain_bytes(&name)?)?;
                self.source.forget(&name);
            }
        }
        self.writer.finish().map(|()| 0.0)
    }
}

/// The name of a tensor in the result.
fn written_name<'a>(source: &'a Checkpoint, target: &WriteTarget, name: &'a str) -> &'a str {
    match target {
        WriteTarget::Repacked(_) => source.store().stored_name(name),
        _ => name,
    }
}

/// The tensors of a packed linear: names, types and shapes.
fn describe(source: &Checkpoint, target: &WriteTarget, name: &str) -> Result<Vec<TensorDescription>> {
    let shape = source.shape(name)?;
    match (target.packing(), &shape[..]) {
        (Some(packing), &[out, input]) => {
            let parts = packing.describe([out, input]);
            let parts = parts.map_err(|what| Error::tensor(source.path(), name, what))?;
            let named = |(part, dtype, shape)| {
                let name = format!("{}{part}", module(name));
                (written_name(source, target, &name).to_owned(), dtype, shape)
            };
            Ok(parts.into_iter().map(named).collect())
        }
        _ => Ok(vec![(name.to_owned(), dtype(FloatType::F16), shape)]),
    }
}

/// Writes the files beside the weights: settings and tokenizer.
fn write_settings(source: &Checkpoint, to: &Path, target: &WriteTarget) -> Result<()> {
    let is_whole = matches!(target, WriteTarget::Repacked(_));
    let mut config = source.store().write_companions(to, is_whole)?;
    let settings = target.packing().map(Packing::settings);
    if let Some(config) = config.as_object_mut() {
        config.shift_remove("compression_config");
        config.shift_remove("quantization");
        match &settings {
            Some(settings) => config.insert("quantization_config".into(), settings.clone()),
            None => config.shift_remove("quantization_config"),
        };
    }
    write_json(&to.join(CONFIG_FILE), &config)?;
    match (target.packing(), settings) {
        (Some(packing), Some(settings)) if packing.has_own_config() => {
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
    // No other store has a tokenizer that GGUF could be given, and GGUF itself is not written again.
    let TokenizerSource::HuggingFace(directory) = source.tokenizer_source()? else {
        return Err(Error::invalid(
            format!("{} is no Hugging Face directory", source.path().display()),
            "choose another --format",
        ));
    };
    let vocab = GgufVocab::from_dir(&directory, source.config().vocab_size)?;
    let packed: HashSet<&str> = linears.names.iter().map(String::as_str).collect();
    let dtype = |name: &str| match source.layout(name)? {
        Layout::Dense(dtype) => Ok(dtype),
        Layout::Packed(_) => Err(Error::unsupported(
            format!(
                "{}: `{name}` is quantized, and GGUF is written with float embeddings",
                source.path().display()
            ),
            "choose another --format",
        )),
    };
    ModelFile::create(to, source.config(), name, vocab, kind, &packed, &dtype)
}
