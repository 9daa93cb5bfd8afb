//! bitsandbytes' 4-bit types, as `save_pretrained` writes them. One linear `M` of shape `[out, in]`:
//!
//! ```text
//! M.weight                                     u8 [out·in/2, 1]   two codes a byte, the first in the high half
//! M.weight.absmax                              f32 [out·in/block] the scale of each block of the flattened weight
//! M.weight.quant_map                           f32 [16]           what the codes stand for
//! M.weight.quant_state.bitsandbytes__nf4       u8 [n]             JSON: quant_type, blocksize, dtype, shape
//! weight[i] = absmax[i / block] · quant_map[code[i]]
//! ```
//!
//! With double quantization the scales are codes, too, and the JSON has nested_blocksize and nested_offset:
//!
//! ```text
//! M.weight.absmax                              u8 [out·in/block]
//! M.weight.nested_absmax                       f32 [blocks / nested_blocksize, rounded up]
//! M.weight.nested_quant_map                    f32 [256]
//! absmax[b] = nested_absmax[b / nested_blocksize] · nested_quant_map[code[b]] + nested_offset
//! ```
//!
//! Such scales are expanded to be trained, and a tuned copy has them as f32.
//!
//! Layout: bitsandbytes `functional.py` (`QuantState.as_dict`, `quantize_4bit`). Blocks are groups of input
//! features where they fill the rows.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Format;
use super::super::safetensors::Dtype;
use super::super::shards::{Shards, Tensor};
use super::{Layer, Packing, Scheme, StoredScales, expect};
use crate::arch::hf::loose::{self, Flag, is_set};
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::{Codebook, Levels, LevelsKind, PackedLayout, PackedWeight};
use crate::quant::NF4;

pub const NF4_PARTS: [&str; 6] = parts(".weight.quant_state.bitsandbytes__nf4");
const FP4_PARTS: [&str; 6] = parts(".weight.quant_state.bitsandbytes__fp4");

/// The last two are there with double quantization alone.
const fn parts(state: &'static str) -> [&'static str; 6] {
    let absmax = ".weight.absmax";
    [state, ".weight", absmax, ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map"]
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Nf4,
    Fp4,
}

/// What config.json says.
pub struct BitsAndBytes {
    kind: Kind,
    settings: Value,
}

#[derive(Deserialize)]
struct Settings {
    load_in_4bit: Option<Flag>,
    bnb_4bit_quant_type: Option<String>,
    bnb_4bit_quant_storage: Option<String>,
}

/// What a layer says about itself.
#[derive(Deserialize)]
struct State {
    blocksize: usize,
    shape: Vec<usize>,
    dtype: Option<String>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl BitsAndBytes {
    /// # Errors
    /// Missing values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let settings: Settings = loose::read(json)
            .map_err(|e| Error::damaged(path, format!("bitsandbytes quantization config: {e}")))?;
        let kind = settings.bnb_4bit_quant_type.as_deref().unwrap_or("fp4");
        let storage = settings.bnb_4bit_quant_storage.as_deref().unwrap_or("uint8");
        let unsupported = match (is_set(settings.load_in_4bit), kind) {
            (false, _) => "8-bit weights",
            (true, _) if storage != "uint8" => "weights stored in other than bytes",
            (true, "nf4") => return Ok(Self { kind: Kind::Nf4, settings: json.clone() }),
            (true, "fp4") => return Ok(Self { kind: Kind::Fp4, settings: json.clone() }),
            (true, _) => "an unknown 4-bit type",
        };
        Err(Error::unsupported(
            format!("{}: bitsandbytes with {unsupported}", path.display()),
            "works: bnb_4bit_quant_type \"nf4\" and \"fp4\", stored as uint8",
        ))
    }
}

impl Scheme for BitsAndBytes {
    fn format(&self) -> Format {
        Format::BitsAndBytes
    }

    fn name(&self) -> String {
        self.kind.quant_type().to_uppercase()
    }

    fn parts(&self) -> &'static [&'static str] {
        self.kind.parts()
    }

    fn open<'a>(
        &'a self,
        shards: &'a Shards,
        module: &str,
        shape: [usize; 2],
    ) -> Result<Box<dyn Layer + 'a>> {
        let [state, weight, absmax, quant_map, nested_absmax, nested_map] =
            self.kind.parts().map(|part| format!("{module}{part}"));
        let (state, weight) = (shards.tensor(&state)?, shards.tensor(&weight)?);
        let (absmax, quant_map) = (shards.tensor(&absmax)?, shards.tensor(&quant_map)?);
        let [out_features, in_features] = shape;
        let said: State = serde_json::from_slice(state.bytes)
            .map_err(|e| state.wrong(format!("expected JSON that says blocksize and shape: {e}")))?;
        if said.shape != shape {
            return Err(state.wrong(format!("says shape {:?}, expected {shape:?}", said.shape)));
        }
        let blocks = blocks(shape, said.blocksize).map_err(|what| weight.wrong(what))?;
        weight.expect_shape(&[out_features * in_features / 2, 1])?;
        if weight.dtype != Dtype::U8 {
            return Err(weight.wrong(format!("expected U8, got {:?}", weight.dtype)));
        }
        absmax.expect_shape(&[out_features * blocks])?;
        quant_map.expect_shape(&[16])?;
        let (nested, scales) = match absmax.dtype {
            Dtype::U8 => {
                let nested = [shards.tensor(&nested_absmax)?, shards.tensor(&nested_map)?];
                let values = expanded(&said, &state, &absmax, &nested)?;
                (Some(nested), StoredScales::expanded(absmax, [out_features, blocks], values))
            }
            _ => (None, StoredScales::new(absmax, [out_features, blocks], false)?),
        };
        Ok(Box::new(Linear { scheme: self, shape, said, state, weight, scales, quant_map, nested }))
    }
}

impl Kind {
    fn quant_type(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    fn parts(self) -> &'static [&'static str; 6] {
        match self {
            Self::Nf4 => &NF4_PARTS,
            Self::Fp4 => &FP4_PARTS,
        }
    }
}

/// Blocks in a row.
fn blocks([_, in_features]: [usize; 2], block: usize) -> Result<usize, String> {
    match block >= 8 && block.is_power_of_two() && in_features.is_multiple_of(block) {
        true => Ok(in_features / block),
        false => Err(format!("blocks of {block} weights do not fill rows of {in_features}")),
    }
}

/// Scales that were quantized.
fn expanded(said: &State, state: &Tensor, absmax: &Tensor, [nested, map]: &[Tensor; 2]) -> Result<Vec<f32>> {
    let size = said.nested_blocksize.filter(|size| *size > 0).zip(said.nested_offset);
    let (size, offset) =
        size.ok_or_else(|| state.wrong("says no nested_blocksize and nested_offset, and absmax is U8"))?;
    nested.expect_shape(&[absmax.bytes.len().div_ceil(size)])?;
    map.expect_shape(&[256])?;
    let (nested, map) = (nested.floats()?, map.floats()?);
    let blocks = absmax.bytes.chunks(size).zip(nested);
    Ok(blocks
        .flat_map(|(codes, scale)| codes.iter().map(move |code| (usize::from(*code), scale)))
        .map(|(code, scale)| map[code] * scale + offset)
        .collect())
}

struct Linear<'a> {
    scheme: &'a BitsAndBytes,
    shape: [usize; 2],
    said: State,
    state: Tensor<'a>,
    weight: Tensor<'a>,
    scales: StoredScales<'a>,
    quant_map: Tensor<'a>,
    nested: Option<[Tensor<'a>; 2]>,
}

impl Layer for Linear<'_> {
    fn layout(&self) -> PackedLayout {
        let levels = LevelsKind::Codebook { width: 1, num_codebooks: 1 };
        PackedLayout { bits: 4, group_size: self.said.blocksize, levels, ordered: false }
    }

    fn scales(&self) -> &StoredScales<'_> {
        &self.scales
    }

    fn levels(&self) -> Result<Levels> {
        super::codebook(&self.quant_map, 1, 1)
    }

    fn packed(&self) -> Result<PackedWeight> {
        let [out_features, in_features] = self.shape;
        let codes = self.weight.bytes.as_chunks().0.iter();
        Ok(PackedWeight {
            out_features,
            in_features,
            bits: 4,
            group_size: self.said.blocksize,
            codes: codes.map(|word| u32::from_le_bytes(word.map(|byte: u8| byte.rotate_left(4)))).collect(),
            scales: self.scales.values()?,
            levels: self.levels()?,
            perm: None,
        })
    }

    fn bytes(&self) -> usize {
        let parts = [&self.state, &self.weight, self.scales.tensor(), &self.quant_map];
        parts.into_iter().chain(self.nested.iter().flatten()).map(|part| part.bytes.len()).sum()
    }

    fn repacking(&self) -> Option<Box<dyn Packing>> {
        self.nested.as_ref()?;
        let (block, dtype) = (self.said.blocksize, self.said.dtype.clone().unwrap_or_default());
        let mut settings = self.scheme.settings.clone();
        if let Some(settings) = settings.as_object_mut() {
            settings.insert("bnb_4bit_use_double_quant".into(), false.into());
        }
        Some(Box::new(BitsAndBytesPacking { kind: self.scheme.kind, block, dtype, settings }))
    }
}

/// How such directories are written.
pub struct BitsAndBytesPacking {
    kind: Kind,
    block: usize,
    /// The type the weights had, by its name in PyTorch: "float16".
    dtype: String,
    settings: Value,
}

impl BitsAndBytesPacking {
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
        Self { kind: Kind::Nf4, block, dtype: dtype.into(), settings }
    }

    fn state(&self, shape: [usize; 2]) -> Vec<u8> {
        let Self { kind, block, dtype, .. } = self;
        json!({ "quant_type": kind.quant_type(), "blocksize": block, "dtype": dtype, "shape": shape })
            .to_string()
            .into_bytes()
    }
}

impl Packing for BitsAndBytesPacking {
    fn scale_dtype(&self) -> FloatType {
        FloatType::F32
    }

    fn settings(&self) -> Value {
        self.settings.clone()
    }

    fn describe(&self, shape: [usize; 2]) -> Result<Vec<(String, Dtype, Vec<usize>)>, String> {
        let [out_features, in_features] = shape;
        let blocks = blocks(shape, self.block)?;
        let parts = [
            (Dtype::U8, vec![self.state(shape).len()]),
            (Dtype::U8, vec![out_features * in_features / 2, 1]),
            (Dtype::F32, vec![out_features * blocks]),
            (Dtype::F32, vec![16]),
        ];
        let named = self.kind.parts().iter().zip(parts);
        Ok(named.map(|(part, (dtype, shape))| (part.to_string(), dtype, shape)).collect())
    }

    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        expect(packed, 4, Some(self.block))?;
        let entries = match &packed.levels {
            Levels::Codebook(Codebook { width: 1, num_codebooks: 1, entries }) if packed.perm.is_none() => {
                entries
            }
            _ => return Err("this format holds the codes of one codebook, of neighbouring features".into()),
        };
        if self.kind == Kind::Nf4 && entries[..] != NF4 {
            return Err("this format holds the codes of NF4".into());
        }
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let bytes = packed.codes.iter().flat_map(|word| word.to_le_bytes().map(|byte| byte.rotate_left(4)));
        let shape = [packed.out_features, packed.in_features];
        Ok(vec![self.state(shape), bytes.collect(), floats(&packed.scales), floats(entries)])
    }
}
