//! How the linears of a Hugging Face directory are stored quantized: one file per scheme, which owns its
//! tensors' names and layouts, in both directions. To add one: its file, and a line in [`read`].

pub mod aqlm;
pub mod awq;
pub mod bitsandbytes;
mod bytes;
pub mod codebook;
pub mod compressed_tensors;
pub mod gptq;
pub mod mlx;
mod ordering;
mod scales;

use std::path::Path;

use clap::ValueEnum;
use serde_json::Value;

use bytes::{f16_bytes, transpose, word_bytes, words_from};
pub use scales::StoredScales;

use super::Format;
use super::gguf::blocks::GgmlType;
use super::gguf::encode::BLOCK;
use super::safetensors::Dtype;
use super::shards::{Shards, Tensor};
use super::write::Target;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::{Codebook, Levels, PackedLayout, PackedWeight};
use crate::quant::{Method, QuantizeConfig};
use crate::storage::json::parse_json;

/// Where quantizers keep their settings beside (before transformers: instead of) config.json's.
pub const QUANTIZE_CONFIG_FILE: &str = "quantize_config.json";

/// What a directory's settings say about all of its quantized linears.
pub trait Scheme: Send + Sync {
    fn format(&self) -> Format;

    /// For `inspect`: "GPTQ 4-bit".
    fn name(&self) -> String;

    /// Endings of the names of a linear's tensors, after its module's name. A linear that has the first is
    /// stored in this scheme.
    fn parts(&self) -> &'static [&'static str];

    /// Whether reading a linear uses this tensor, one of its [`Self::parts`], or ignoring it changes nothing.
    fn accounts_for(&self, _part: &Tensor<'_>) -> bool {
        true
    }

    /// `module` is the weight's name without `.weight`; `shape` is `[out, in]`.
    ///
    /// # Errors
    /// A tensor that is missing, or of another shape or type.
    fn open<'a>(&'a self, shards: &'a Shards, module: &str, shape: [usize; 2])
    -> Result<Box<dyn Layer + 'a>>;
}

/// One linear's tensors, of checked shapes.
pub trait Layer {
    /// How it lies in memory once it is loaded.
    fn layout(&self) -> PackedLayout;

    fn scales(&self) -> &StoredScales<'_>;

    fn levels(&self) -> Result<Levels>;

    fn packed(&self) -> Result<PackedWeight>;

    /// What the file can hold of `scales` (`[out, groups]`), and the levels that then apply.
    fn rounded(&self, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        Ok((self.scales().rounded(scales)?, self.levels()?))
    }

    /// The tensors that training changes.
    fn tuned_tensors(&self) -> Vec<&Tensor<'_>> {
        vec![self.scales().tensor()]
    }

    /// Their bytes for `scales` (`[out, groups]`).
    ///
    /// # Errors
    /// A scale that overflows the file's type or is not finite.
    fn tuned_bytes(&self, scales: &[f32]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.scales().encode(scales)?])
    }

    /// A row as f32, where it can be read by itself: a table of tokens has to.
    fn row(&self, _row: usize) -> Option<Vec<f32>> {
        None
    }

    /// Of all its tensors.
    fn bytes(&self) -> usize;

    /// How a tuned copy is written, where it is not enough to replace the scales' tensor.
    fn repacking(&self) -> Option<Box<dyn Packing>> {
        None
    }
}

/// How linears are written in a scheme. Which codes and scales, the caller's quantizer decides; here they
/// only get their place.
pub trait Packing: Send + Sync {
    /// Type of the scales in the file.
    fn scale_dtype(&self) -> FloatType;

    /// What config.json says under `quantization_config`.
    fn settings(&self) -> Value;

    /// Whether the settings are also expected in [`QUANTIZE_CONFIG_FILE`].
    fn has_own_config(&self) -> bool {
        false
    }

    /// The tensors of a linear of shape `[out, in]`: ending of the name, type and shape.
    ///
    /// # Errors
    /// A shape that does not fit the format.
    fn describe(&self, shape: [usize; 2]) -> Result<Vec<(String, Dtype, Vec<usize>)>, String>;

    /// Their bytes, in the same order.
    ///
    /// # Errors
    /// A weight that is not as the settings say, or that the format cannot hold.
    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String>;
}

/// The formats that a dense checkpoint can be quantized into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum QuantizedFormat {
    /// Integers; read by transformers, vLLM, SGLang and many others
    Gptq,
    /// Integers; vLLM's own format, read by transformers too
    #[serde(rename = "compressed-tensors")]
    CompressedTensors,
    /// Integers of 4 bits with zero points; read by transformers, vLLM and SGLang
    Awq,
    /// NF4 with f32 scales; read by transformers and vLLM
    Bitsandbytes,
    /// Vectors with one scale per row; read by transformers with the aqlm package
    Aqlm,
    /// One file of blocks (Q4_0, Q4_1 with --asymmetric, Q8_0), floats as they are; read by llama.cpp
    Gguf,
    /// qzo's own: codebooks with scales per group
    Qzo,
}

impl QuantizedFormat {
    /// What holds the results of a method best.
    pub fn of(method: Method) -> Self {
        match method {
            Method::Rtn | Method::Gptq => Self::Gptq,
            Method::Nf4 => Self::Bitsandbytes,
            Method::Learned | Method::Vector => Self::Qzo,
        }
    }

    /// How weights that are quantized by `config`, and were stored as `dtype`, are written.
    ///
    /// # Errors
    /// The format cannot hold them.
    pub fn target(self, config: &QuantizeConfig, dtype: FloatType) -> Result<Target> {
        match self {
            Self::Gguf => Ok(Target::Gguf(self.block_type(config)?)),
            _ => Ok(Target::Quantized(self.packing(config, dtype)?)),
        }
    }

    fn block_type(self, config: &QuantizeConfig) -> Result<GgmlType> {
        let unfit = |help: &str| {
            let method = format!("{:?}", config.method).to_lowercase();
            Err(Error::invalid(format!("GGUF does not hold what {method} gives with these settings"), help))
        };
        if !matches!(config.method, Method::Rtn | Method::Gptq) {
            return unfit("use --method rtn or gptq, or leave --format out");
        }
        if config.act_order && !config.static_groups {
            return unfit("add --static-groups, or leave --act-order out: GGUF's blocks are of neighbours");
        }
        if config.group_size().is_some_and(|size| !size.is_multiple_of(BLOCK)) {
            return unfit("use a --group-size of 32, 64, 128, …: GGUF has a scale for each 32 weights");
        }
        match (config.bits, config.asymmetric) {
            (4, false) => Ok(GgmlType::Q4_0),
            (4, true) => Ok(GgmlType::Q4_1),
            (8, false) => Ok(GgmlType::Q8_0),
            _ => unfit("use --bits 4 (Q4_0, with --asymmetric Q4_1) or --bits 8 (Q8_0)"),
        }
    }

    fn packing(self, config: &QuantizeConfig, dtype: FloatType) -> Result<Box<dyn Packing>> {
        let (bits, vector_size, group_size) = (config.bits, config.vector_size(), config.group_size());
        let unfit = |help: &str| {
            let method = format!("{:?}", config.method).to_lowercase();
            let format = self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
            let what = format!("the format {format} does not hold what {method} gives with these settings");
            Err(Error::invalid(what, help))
        };
        match (self, config.method) {
            (Self::Gptq, Method::Rtn | Method::Gptq) => Ok(Box::new(gptq::GptqPacking {
                bits,
                group_size,
                symmetric: !config.asymmetric,
                desc_act: config.act_order && !config.static_groups,
                static_groups: config.static_groups,
                damp_percent: config.damp_percent,
                true_sequential: true,
            })),
            (Self::CompressedTensors, Method::Rtn | Method::Gptq) => {
                Ok(Box::new(compressed_tensors::CompressedTensors {
                    bits,
                    group_size,
                    symmetric: !config.asymmetric,
                    // The features of a single group have no order.
                    actorder: match (config.act_order && group_size.is_some(), config.static_groups) {
                        (false, _) => None,
                        (true, false) => Some(compressed_tensors::Actorder::Group),
                        (true, true) => Some(compressed_tensors::Actorder::Weight),
                    },
                }))
            }
            (Self::Awq, Method::Rtn | Method::Gptq) => match (bits, config.asymmetric) {
                _ if config.act_order && !config.static_groups => {
                    unfit("add --static-groups, or leave --act-order out: AWQ's groups are of neighbours")
                }
                (4, true) => Ok(Box::new(awq::Awq { group_size })),
                _ => unfit("use --bits 4 --asymmetric: AWQ holds nothing else"),
            },
            (Self::Gptq | Self::CompressedTensors | Self::Awq, _) => {
                unfit("use --method rtn or gptq, or leave --format out")
            }
            (Self::Bitsandbytes, Method::Nf4) => {
                let block = group_size.unwrap_or(0);
                match [32, 64, 128, 256, 512, 1024, 2048, 4096].contains(&block) {
                    true => Ok(Box::new(bitsandbytes::BitsAndBytesPacking::nf4(block, dtype))),
                    false => {
                        unfit("use a --group-size of 32, 64, 128, … 4096: the block sizes of bitsandbytes")
                    }
                }
            }
            (Self::Bitsandbytes, _) => unfit("use --method nf4, or leave --format out"),
            (Self::Aqlm, Method::Vector) if group_size.is_none() => Ok(Box::new(aqlm::Aqlm {
                nbits_per_codebook: bits * vector_size as u32,
                num_codebooks: 1,
                in_group_size: vector_size,
                out_group_size: 1,
            })),
            (Self::Aqlm, _) => unfit("use --method vector with --group-size -1: AQLM has one scale per row"),
            (Self::Qzo, Method::Nf4 | Method::Learned | Method::Vector) => {
                Ok(Box::new(codebook::CodebookScheme {
                    bits: bits * vector_size as u32,
                    vector_size,
                    num_codebooks: 1,
                    group_size,
                    // NF4 has more digits than f16.
                    codebook_dtype: if config.method == Method::Nf4 {
                        FloatType::F32
                    } else {
                        FloatType::F16
                    },
                }))
            }
            (Self::Qzo, _) => unfit("leave --format out: integers are stored as GPTQ"),
            (Self::Gguf, _) => unfit("GGUF is no directory"),
        }
    }
}

/// Bytes of [`QUANTIZE_CONFIG_FILE`], where config.json has no settings and the directory has that file.
pub fn other_settings(directory: &Path, json: &Value) -> Result<Option<Vec<u8>>> {
    let keys = ["quantization", "quantization_config", "compression_config"];
    let path = directory.join(QUANTIZE_CONFIG_FILE);
    if keys.iter().any(|key| json.get(*key).is_some_and(|settings| !settings.is_null())) || !path.exists() {
        return Ok(None);
    }
    std::fs::read(&path).map(Some).map_err(Error::io(&path, "reading"))
}

/// `quantization_config` of config.json (`quantization` is MLX's, and `compression_config` was that of
/// compressed-tensors when it was young), or the file old GPTQ tools write, whose bytes are `other`.
pub fn read(
    directory: &Path,
    path: &Path,
    json: &Value,
    other: Option<&[u8]>,
) -> Result<Option<Box<dyn Scheme>>> {
    let settings = |key| json.get(key).filter(|s: &&Value| !s.is_null());
    if let Some(settings) = settings("quantization") {
        return Ok(Some(Box::new(mlx::Mlx::parse(path, settings)?)));
    }
    if let Some(settings) = settings("quantization_config") {
        return named(path, settings).map(Some);
    }
    if let Some(settings) = settings("compression_config") {
        return Ok(Some(Box::new(compressed_tensors::CompressedTensors::parse(path, settings)?)));
    }
    let Some(bytes) = other else { return Ok(None) };
    let path = directory.join(QUANTIZE_CONFIG_FILE);
    let settings = parse_json(&path, bytes)?;
    match settings.get("quant_method").is_some_and(|method| !method.is_null()) {
        true => named(&path, &settings).map(Some),
        false => Ok(Some(Box::new(gptq::Gptq::parse(&path, &settings)?))),
    }
}

/// By its `quant_method`, which older files of bitsandbytes do not have.
fn named(path: &Path, settings: &Value) -> Result<Box<dyn Scheme>> {
    let method = settings.get("quant_method").and_then(Value::as_str);
    let loads = |key| matches!(settings.get(key), Some(Value::Bool(true)));
    match method.or((loads("load_in_4bit") || loads("load_in_8bit")).then_some("bitsandbytes")) {
        Some("gptq") => Ok(Box::new(gptq::Gptq::parse(path, settings)?)),
        Some("compressed-tensors") => {
            Ok(Box::new(compressed_tensors::CompressedTensors::parse(path, settings)?))
        }
        Some("awq") => Ok(Box::new(awq::Awq::parse(path, settings)?)),
        Some("aqlm") => Ok(Box::new(aqlm::Aqlm::parse(path, settings)?)),
        Some("bitsandbytes") => Ok(Box::new(bitsandbytes::BitsAndBytes::parse(path, settings)?)),
        Some("qzo") => Ok(Box::new(codebook::CodebookScheme::parse(path, settings)?)),
        Some(other) => Err(Error::unsupported(
            format!("{}: quantization method \"{other}\" is not supported", path.display()),
            "works: gptq, compressed-tensors, awq, aqlm, bitsandbytes 4-bit, mlx, qzo, GGUF files, and f32, f16 or \
             bf16 checkpoints (`qzo quantize` them)",
        )),
        None => Err(Error::damaged(path, "quantization_config names no quant_method")),
    }
}

/// The scheme that names of tensors point to, if the settings declare none.
pub fn undeclared(declared: Option<&dyn Scheme>, names: &[&str]) -> Option<&'static str> {
    let known = [
        (gptq::PARTS[0], "GPTQ or AWQ"),
        (compressed_tensors::PACKED, "compressed-tensors"),
        (aqlm::PARTS[1], "AQLM"),
        (codebook::PARTS[2], "qzo's own scheme"),
        (bitsandbytes::NF4_PARTS[2], "bitsandbytes"),
        (".SCB", "bitsandbytes (8 bits)"),
        (mlx::PARTS[2], "MLX"),
        (".weight_scale_inv", "FP8"),
        (".weight_scale", "FP8 or compressed-tensors"),
    ];
    let has = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let found = known.into_iter().find(|(ending, _)| declared.is_none() && has(ending));
    found.map(|(_, scheme)| scheme)
}

/// The entries `[num_codebooks, 2^bits, width]` of a codebook that a tensor of checked shape holds.
///
/// # Errors
/// One that is not finite.
fn codebook(tensor: &Tensor, width: usize, num_codebooks: usize) -> Result<Levels> {
    let entries = tensor.floats()?;
    match entries.iter().all(|entry| entry.is_finite()) {
        true => Ok(Levels::Codebook(Codebook { width, num_codebooks, entries })),
        false => Err(tensor.wrong("holds an entry that is not finite")),
    }
}

/// `group_size` of a settings file, where −1 is a whole row.
fn group_size(path: &Path, stored: i64) -> Result<Option<usize>> {
    match stored {
        -1 => Ok(None),
        size if (1..=i64::from(i32::MAX)).contains(&size) => Ok(Some(size as usize)),
        size => Err(Error::damaged(path, format!("group_size {size}: expected −1 or more than 0"))),
    }
}

/// What a packed weight must be for the settings to be true.
fn expect(packed: &PackedWeight, bits: u32, group_size: Option<usize>) -> Result<(), String> {
    let size = group_size.unwrap_or(packed.in_features);
    match (packed.bits, packed.group_size) == (bits, size) {
        true => Ok(()),
        false => Err(format!(
            "expected codes of {bits} bits in groups of {size}, the quantizer gave {} in {}",
            packed.bits, packed.group_size
        )),
    }
}
