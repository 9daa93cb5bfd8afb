//! bitsandbytes' 4-bit types, as `save_pretrained` writes them. One linear `M` of shape `[out, in]`:
//!
//! ```text
//! M.weight                                     u8 [out·in/2, 1]   two codes per byte, the first in the high half
//! M.weight.absmax                              f32 [out·in/block] the scale of each block of the flattened weight
//! M.weight.quant_map                           f32 [16]           the values of the codes
//! M.weight.quant_state.bitsandbytes__nf4       u8 [n]             JSON: quant_type, blocksize, dtype, shape
//! weight[i] = absmax[i / block] · quant_map[code[i]]
//! ```
//!
//! With double quantization the scales are codes themselves, and the JSON has nested_blocksize and nested_offset:
//!
//! ```text
//! M.weight.absmax                              u8 [out·in/block]
//! M.weight.nested_absmax                       f32 [blocks / nested_blocksize, rounded up]
//! M.weight.nested_quant_map                    f32 [256]
//! absmax[b] = nested_absmax[b / nested_blocksize] · nested_quant_map[code[b]] + nested_offset
//! ```
//!
//! Such scales are expanded for training, and a tuned copy stores them as f32.
//!
//! Layout: bitsandbytes `functional.py` (`QuantState.as_dict`, `quantize_4bit`). Blocks are groups of input
//! features where they fill the rows.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::config::read_settings;
use super::tensors::TensorRole::{self, Codes, Private, Scales};
use super::tensors::{LinearTensors, StoredLayout, TensorSpec};
use super::traits::{LinearFormat, LinearFormats, Packing, Scheme};
use crate::arch::hf::loose::{Flag, is_set};
use crate::checkpoint::Format;
use crate::checkpoint::safetensors::Dtype;
use crate::checkpoint::shards::Shards;
use crate::error::{Error, Result};
use crate::packed::{Codebook, FloatType, Levels, LevelsKind, PackedLayout};
use crate::quant::NF4;

const WEIGHT: &str = ".weight";
pub const ABSMAX: &str = ".weight.absmax";
const QUANT_MAP: &str = ".weight.quant_map";
const NESTED_ABSMAX: &str = ".weight.nested_absmax";
const NESTED_MAP: &str = ".weight.nested_quant_map";

/// Settings in config.json.
pub struct BitsAndBytes {
    quant_type: QuantType,
    settings: Value,
}

/// "nf4" or "fp4", and the endings of the tensors' names.
#[derive(Clone, Copy)]
struct QuantType(&'static str, &'static [&'static str; 6]);

const NF4_TYPE: QuantType = QuantType("nf4", &parts(".weight.quant_state.bitsandbytes__nf4"));
const FP4_TYPE: QuantType = QuantType("fp4", &parts(".weight.quant_state.bitsandbytes__fp4"));

/// The last two belong to double quantization.
const fn parts(state: &'static str) -> [&'static str; 6] {
    [state, WEIGHT, ABSMAX, QUANT_MAP, NESTED_ABSMAX, NESTED_MAP]
}

#[derive(Deserialize)]
struct BitsAndBytesSettings {
    load_in_4bit: Option<Flag>,
    bnb_4bit_quant_type: Option<String>,
    bnb_4bit_quant_storage: Option<String>,
}

/// The JSON that a linear has beside its weight.
#[derive(Deserialize)]
struct QuantState {
    blocksize: usize,
    shape: Vec<usize>,
    dtype: Option<String>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl BitsAndBytes {
    pub fn scheme(self) -> Scheme {
        let QuantType(name, parts) = self.quant_type;
        Scheme { format: Format::BitsAndBytes, name: name.to_uppercase(), parts, linears: Box::new(self) }
    }

    /// # Errors
    /// Missing values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let settings: BitsAndBytesSettings = read_settings(path, json, "bitsandbytes")?;
        let kind = settings.bnb_4bit_quant_type.as_deref().unwrap_or("fp4");
        let storage = settings.bnb_4bit_quant_storage.as_deref().unwrap_or("uint8");
        let unsupported = match (is_set(settings.load_in_4bit), kind) {
            (false, _) => "8-bit weights",
            (true, _) if storage != "uint8" => "weights stored in other than bytes",
            (true, "nf4") => return Ok(Self { quant_type: NF4_TYPE, settings: json.clone() }),
            (true, "fp4") => return Ok(Self { quant_type: FP4_TYPE, settings: json.clone() }),
            (true, _) => "an unknown 4-bit type",
        };
        Err(Error::unsupported(
            format!("{}: bitsandbytes with {unsupported}", path.display()),
            "works: bnb_4bit_quant_type \"nf4\" and \"fp4\", stored as uint8",
        ))
    }
}

impl LinearFormats for BitsAndBytes {
    fn linear(&self, shards: &Shards, module: &str, shape: [usize; 2]) -> Result<Box<dyn LinearFormat>> {
        let tensor = |part: &str| shards.tensor(&format!("{module}{part}"));
        let (stored, absmax) = (tensor(self.quant_type.1[0])?, tensor(ABSMAX)?);
        let state: QuantState = serde_json::from_slice(stored.bytes)
            .map_err(|e| stored.wrong(format!("expected JSON that says blocksize and shape: {e}")))?;
        if state.shape != shape {
            return Err(stored.wrong(format!("says shape {:?}, expected {shape:?}", state.shape)));
        }
        if !shape[1].is_multiple_of(state.blocksize.max(1)) {
            return Err(Error::unsupported(
                format!(
                    "`{module}.weight`: blocks of {} weights cross the ends of its rows of {}",
                    state.blocksize, shape[1]
                ),
                "bitsandbytes can read it; qzo needs rows that are whole blocks: quantize the original model again with \
                 another blocksize, or with `qzo quantize`",
            ));
        }
        let nested = state.nested_blocksize.filter(|size| *size > 0).zip(state.nested_offset);
        let is_nested = absmax.dtype == Dtype::U8;
        if is_nested && nested.is_none() {
            return Err(stored.wrong("says no nested_blocksize and nested_offset, and absmax is U8"));
        }
        Ok(Box::new(FourBitLinear {
            quant_type: self.quant_type,
            block: state.blocksize,
            dtype: state.dtype.unwrap_or_default(),
            settings: self.settings.clone(),
            state_bytes: Some(stored.bytes.len()),
            nested: nested.filter(|_| is_nested),
        }))
    }
}

/// Format of one linear, as its state describes it or as it is to be written.
#[derive(Clone)]
pub struct FourBitLinear {
    quant_type: QuantType,
    block: usize,
    /// PyTorch's name of the type that the weights had: "float16".
    dtype: String,
    /// Settings in config.json.
    settings: Value,
    /// Length of the state in the file, if there is a file.
    state_bytes: Option<usize>,
    /// Scales that share a scale, and the offset that was subtracted from them: double quantization.
    nested: Option<(usize, f32)>,
}

impl FourBitLinear {
    /// NF4 of weights that had the type `dtype`.
    pub fn nf4(block: usize, dtype: FloatType) -> Self {
        let dtype = match dtype {
            FloatType::F32 => "float32",
            FloatType::F16 => "float16",
            FloatType::BF16 => "bfloat16",
        };
        let settings = json!({
            "quant_method": "bitsandbytes",
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": false,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": ["lm_head"],
            "llm_int8_threshold": 6.0,
        });
        Self { quant_type: NF4_TYPE, block, dtype: dtype.into(), settings, state_bytes: None, nested: None }
    }
}

impl LinearFormat for FourBitLinear {
    fn spec(&self, shape: [usize; 2]) -> Result<StoredLayout, String> {
        let ([out_features, in_features], block) = (shape, self.block);
        if block < 8 || !block.is_power_of_two() || !in_features.is_multiple_of(block) {
            return Err(format!("blocks of {block} weights do not fill rows of {in_features}"));
        }
        let blocks = out_features * (in_features / block);
        let (state, state_bytes) =
            (self.quant_type.1[0], self.state_bytes.unwrap_or_else(|| self.private_bytes(shape).len()));
        let absmax = if self.nested.is_some() { Dtype::U8 } else { Dtype::F32 };
        let mut tensors = vec![
            TensorSpec::new(state, Private, Dtype::U8, &[state_bytes]),
            TensorSpec::new(WEIGHT, Codes, Dtype::U8, &[out_features * in_features / 2, 1]),
            TensorSpec::new(ABSMAX, Scales, absmax, &[blocks]),
            TensorSpec::new(QUANT_MAP, TensorRole::Codebook, Dtype::F32, &[16]),
        ];
        if let Some((size, _)) = self.nested {
            tensors.push(TensorSpec::new(NESTED_ABSMAX, Private, Dtype::F32, &[blocks.div_ceil(size)]));
            tensors.push(TensorSpec::new(NESTED_MAP, Private, Dtype::F32, &[256]));
        }
        let levels = LevelsKind::Codebook { width: 1, num_codebooks: 1 };
        let layout = PackedLayout { bits: 4, group_size: block, levels, ordered: false };
        Ok(StoredLayout { layout, tensors })
    }

    fn unpack(&self, stored: &[u8], _: [usize; 2], codes: &mut [u32]) {
        for (word, stored) in codes.iter_mut().zip(stored.as_chunks().0) {
            *word = u32::from_le_bytes(stored.map(|byte: u8| byte.rotate_left(4)));
        }
    }

    fn expanded_scales(&self, tensors: &LinearTensors) -> Result<Option<Vec<f32>>> {
        let parts = [ABSMAX, NESTED_ABSMAX, NESTED_MAP].map(|ending| tensors.with_ending(ending));
        let (Some((size, offset)), [Some(absmax), Some(nested), Some(map)]) = (self.nested, parts) else {
            return Ok(None);
        };
        let (nested, map) = (nested.floats()?, map.floats()?);
        let blocks = absmax.bytes.chunks(size).zip(nested);
        let codes =
            blocks.flat_map(|(codes, scale)| codes.iter().map(move |code| (usize::from(*code), scale)));
        Ok(Some(codes.map(|(code, scale)| map[code] * scale + offset).collect()))
    }

    fn repacking(&self) -> Option<Box<dyn Packing>> {
        self.nested?;
        let mut plain = Self { nested: None, state_bytes: None, ..self.clone() };
        if let Some(settings) = plain.settings.as_object_mut() {
            settings.insert("bnb_4bit_use_double_quant".into(), false.into());
        }
        Some(Box::new(plain))
    }
}

impl Packing for FourBitLinear {
    fn scale_dtype(&self) -> FloatType {
        FloatType::F32
    }

    fn settings(&self) -> Value {
        self.settings.clone()
    }

    fn check(&self, levels: &Levels) -> Result<(), String> {
        let is_nf4 = matches!(levels, Levels::Codebook(Codebook { entries, .. }) if entries[..] == NF4);
        match is_nf4 || self.quant_type.0 != NF4_TYPE.0 {
            true => Ok(()),
            false => Err("the codes are not those of NF4".into()),
        }
    }

    fn pack(&self, codes: &[u32], _: [usize; 2]) -> Vec<u8> {
        codes.iter().flat_map(|word| word.to_le_bytes().map(|byte| byte.rotate_left(4))).collect()
    }

    fn private_bytes(&self, shape: [usize; 2]) -> Vec<u8> {
        let Self { quant_type: QuantType(name, _), block, dtype, .. } = self;
        json!({ "quant_type": name, "blocksize": block, "dtype": dtype, "shape": shape })
            .to_string()
            .into_bytes()
    }
}
