//! bitsandbytes' 4-bit NormalFloat, as `save_pretrained` writes it. One linear `M` of shape `[out, in]`:
//!
//! ```text
//! M.weight                                     u8 [out·in/2, 1]   two codes a byte, the first in the high half
//! M.weight.absmax                              f32 [out·in/block] the scale of each block of the flattened weight
//! M.weight.quant_map                           f32 [16]           what the codes stand for
//! M.weight.quant_state.bitsandbytes__nf4       u8 [n]             JSON: quant_type, blocksize, dtype, shape
//! weight[i] = absmax[i / block] · quant_map[code[i]]
//! ```
//!
//! Layout: bitsandbytes `functional.py` (`QuantState.as_dict`, `quantize_4bit`). Blocks are groups of input
//! features where they fill the rows.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::safetensors::{Dtype, Shards, Tensor};
use super::super::{Format, Layout};
use super::{Layer, Packing, Scheme, StoredScales, expect};
use crate::error::{Error, Result};
use crate::kernels::packed::{Codebook, Levels, LevelsKind, PackedLayout, PackedWeight};
use crate::quant::{FloatType, NF4};

const STATE: &str = ".weight.quant_state.bitsandbytes__nf4";
const PARTS: [&str; 4] = [STATE, ".weight", ".weight.absmax", ".weight.quant_map"];

/// The block size that bitsandbytes has where nothing else is said.
const BLOCK: usize = 64;

pub struct Nf4;

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    load_in_4bit: bool,
    bnb_4bit_quant_type: Option<String>,
    #[serde(default)]
    bnb_4bit_use_double_quant: bool,
    bnb_4bit_quant_storage: Option<String>,
}

/// What a layer says about itself.
#[derive(Deserialize)]
struct State {
    blocksize: usize,
    shape: Vec<usize>,
}

impl Nf4 {
    /// # Errors
    /// Missing values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let settings = Settings::deserialize(json)
            .map_err(|e| Error::damaged(path, format!("bitsandbytes quantization config: {e}")))?;
        let kind = settings.bnb_4bit_quant_type.as_deref().unwrap_or("fp4");
        let storage = settings.bnb_4bit_quant_storage.as_deref().unwrap_or("uint8");
        let unsupported = match (settings.load_in_4bit, kind) {
            (false, _) => "8-bit weights",
            (true, "nf4") if settings.bnb_4bit_use_double_quant => "quantized scales (double quantization)",
            (true, "nf4") if storage != "uint8" => "weights stored in other than bytes",
            (true, "nf4") => return Ok(Self),
            (true, _) => "another 4-bit type than nf4",
        };
        Err(Error::unsupported(
            format!("{}: bitsandbytes with {unsupported}", path.display()),
            "works: bnb_4bit_quant_type \"nf4\" without double quantization",
        ))
    }
}

impl Scheme for Nf4 {
    fn format(&self) -> Format {
        Format::BitsAndBytes
    }

    fn name(&self) -> String {
        "NF4".into()
    }

    fn parts(&self) -> &'static [&'static str] {
        &PARTS
    }

    fn layout(&self, _: [usize; 2]) -> Layout {
        let levels = LevelsKind::Codebook { width: 1, books: 1 };
        Layout::Packed(PackedLayout { bits: 4, group_size: BLOCK, levels, ordered: false })
    }

    fn open<'a>(&self, shards: &'a Shards, module: &str, shape: [usize; 2]) -> Result<Box<dyn Layer + 'a>> {
        let part = |part: &str| shards.tensor(&format!("{module}{part}"));
        let (state, weight) = (part(STATE)?, part(".weight")?);
        let (absmax, quant_map) = (part(".weight.absmax")?, part(".weight.quant_map")?);
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
        let scales = StoredScales::new(absmax, [out_features, blocks], false)?;
        let layer = Nf4Layer { shape, block: said.blocksize, state, weight, scales, quant_map };
        Ok(Box::new(layer))
    }
}

/// Blocks in a row.
fn blocks([_, in_features]: [usize; 2], block: usize) -> Result<usize, String> {
    match block >= 8 && block.is_power_of_two() && in_features.is_multiple_of(block) {
        true => Ok(in_features / block),
        false => Err(format!("blocks of {block} weights do not fill rows of {in_features}")),
    }
}

struct Nf4Layer<'a> {
    shape: [usize; 2],
    block: usize,
    state: Tensor<'a>,
    weight: Tensor<'a>,
    scales: StoredScales<'a>,
    quant_map: Tensor<'a>,
}

impl Layer for Nf4Layer<'_> {
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
            group_size: self.block,
            codes: codes.map(|word| u32::from_le_bytes(word.map(|byte: u8| byte.rotate_left(4)))).collect(),
            scales: self.scales.values()?,
            levels: self.levels()?,
            order: None,
        })
    }

    fn bytes(&self) -> usize {
        [&self.state, &self.weight, self.scales.tensor(), &self.quant_map].map(|t| t.bytes.len()).iter().sum()
    }
}

/// How such directories are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4Packing {
    pub block: usize,
    /// The type the weights had, by its name in PyTorch: "float16".
    pub dtype: String,
}

impl Nf4Packing {
    fn state(&self, shape: [usize; 2]) -> Vec<u8> {
        let Self { block, dtype } = self;
        json!({ "quant_type": "nf4", "blocksize": block, "dtype": dtype, "shape": shape })
            .to_string()
            .into_bytes()
    }
}

impl Packing for Nf4Packing {
    fn scale_dtype(&self) -> FloatType {
        FloatType::F32
    }

    fn settings(&self) -> Value {
        json!({
            "quant_method": "bitsandbytes",
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_compute_dtype": self.dtype,
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": false,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": ["lm_head"],
            "llm_int8_threshold": 6.0,
        })
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
        Ok(PARTS.iter().zip(parts).map(|(part, (dtype, shape))| (part.to_string(), dtype, shape)).collect())
    }

    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        expect(packed, 4, Some(self.block))?;
        match &packed.levels {
            Levels::Codebook(Codebook { width: 1, entries, .. })
                if entries[..] == NF4 && packed.order.is_none() => {}
            _ => return Err("this format holds the codes of NF4, of neighbouring features".into()),
        }
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let bytes = packed.codes.iter().flat_map(|word| word.to_le_bytes().map(|byte| byte.rotate_left(4)));
        let shape = [packed.out_features, packed.in_features];
        Ok(vec![self.state(shape), bytes.collect(), floats(&packed.scales), floats(&NF4)])
    }
}
