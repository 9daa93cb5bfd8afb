//! GPTQ's tensors ↔ `PackedWeight`. One linear `M` of shape `[out, in]` is stored as
//!
//! ```text
//! M.qweight  i32 [⌈in·bits/32⌉, out]      a column is one row of the weight: its codes along `in`, low
//!                                         bits first; 3-bit codes straddle words (32 codes in 3 words)
//! M.qzeros   i32 [groups, ⌈out·bits/32⌉]  zero points along `out`, packed alike
//! M.scales   f16 [groups, out]            (bf16 and f32 are read too)
//! M.g_idx    i32 [in]                     the group of each input feature
//! weight[o, i] = scales[g, o] · (code[o, i] − zero[g, o]),  g = g_idx[i]
//! ```
//!
//! checkpoint_format "gptq" stores zero − 1, "gptq_v2" stores zero. Subtracting 1 loses the zero point
//! 0, which asymmetric quantization needs: so asymmetric weights are written as v2, as GPTQModel advises.
//! Layout: AutoGPTQ `qlinear_cuda_old.py`, GPTQModel `nn_modules/qlinear/__init__.py` (which rounds the
//! packed dimensions up, as here).

use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Format;
use super::super::safetensors::Dtype;
use super::super::shards::{Shards, Tensor};
use super::{
    Layer, Packing, Scheme, StoredScales, expect, f16_bytes, ordering, transpose, word_bytes, words_from,
};
use crate::arch::hf::loose::{self, Flag, is_set};
use crate::device::host;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::{Levels, LevelsKind, PackedLayout, PackedWeight, get_code, put_code, words_per_row};

/// Rows that are transposed together: what one cache line of the file holds.
const TRANSPOSED_ROWS: usize = 16;

pub const PARTS: [&str; 4] = [".qweight", ".qzeros", ".scales", ".g_idx"];

/// What `quantization_config` says about all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Gptq {
    bits: u32,
    /// `None`: one group per row (−1 in the file).
    group_size: Option<usize>,
    /// checkpoint_format "gptq" rather than "gptq_v2".
    zeros_minus_one: bool,
    /// One zero point for all groups.
    symmetric: bool,
    /// Groups may hold features that are no neighbours.
    desc_act: bool,
}

/// Absent keys have transformers' defaults (`GPTQConfig`).
#[derive(Deserialize)]
struct QuantizationConfig {
    bits: u32,
    group_size: Option<i64>,
    checkpoint_format: Option<String>,
    /// Its name in newer files of GPTQModel.
    format: Option<String>,
    pack_dtype: Option<String>,
    dynamic: Option<Value>,
    sym: Option<Flag>,
    desc_act: Option<Flag>,
    planar: Option<Flag>,
    is_marlin_format: Option<Flag>,
}

impl Gptq {
    /// # Errors
    /// Missing or impossible values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let raw: QuantizationConfig =
            loose::read(json).map_err(|e| Error::damaged(path, format!("GPTQ quantization config: {e}")))?;
        let unsupported = |what: String, works: &str| {
            Err(Error::unsupported(
                format!("{}: GPTQ with {what}", path.display()),
                format!("works: {works}"),
            ))
        };
        if !matches!(raw.bits, 2 | 3 | 4 | 8) {
            return unsupported(format!("{} bits", raw.bits), "2, 3, 4 and 8 bits");
        }
        let group_size = super::group_size(path, raw.group_size.unwrap_or(128))?;
        if raw.dynamic.is_some_and(|d| d.as_object().is_none_or(|d| !d.is_empty())) {
            return unsupported("`dynamic` settings per layer".into(), "the same settings for all layers");
        }
        if is_set(raw.planar) || raw.pack_dtype.as_deref().is_some_and(|d| d != "int32") {
            return unsupported("another packing than 32-bit words".into(), "pack_dtype \"int32\"");
        }
        let zeros_minus_one = match raw.checkpoint_format.as_deref().or(raw.format.as_deref()) {
            _ if is_set(raw.is_marlin_format) => {
                return unsupported("is_marlin_format".into(), "gptq, gptq_v2");
            }
            None | Some("gptq") => true,
            Some("gptq_v2") => false,
            Some(other) => {
                return unsupported(format!("checkpoint_format \"{other}\""), "gptq, gptq_v2");
            }
        };
        // Zero points are there and are read in either case.
        let (symmetric, desc_act) = (is_set(raw.sym), is_set(raw.desc_act));
        Ok(Self { bits: raw.bits, group_size, zeros_minus_one, symmetric, desc_act })
    }
}

impl Scheme for Gptq {
    fn format(&self) -> Format {
        Format::Gptq
    }

    fn name(&self) -> String {
        format!("GPTQ {}-bit", self.bits)
    }

    fn parts(&self) -> &'static [&'static str] {
        &PARTS
    }

    fn open<'a>(
        &'a self,
        shards: &'a Shards,
        module: &str,
        shape: [usize; 2],
    ) -> Result<Box<dyn Layer + 'a>> {
        Ok(Box::new(GptqLayer::open(shards, module, shape, self)?))
    }
}

struct GptqLayer<'a> {
    shape: [usize; 2],
    bits: u32,
    group_size: usize,
    zeros_minus_one: bool,
    symmetric: bool,
    desc_act: bool,
    qweight: Tensor<'a>,
    qzeros: Tensor<'a>,
    scales: StoredScales<'a>,
    g_idx: Option<Tensor<'a>>,
    order: Option<Vec<u32>>,
}

impl<'a> GptqLayer<'a> {
    fn open(shards: &'a Shards, module: &str, shape: [usize; 2], scheme: &Gptq) -> Result<Self> {
        let [out_features, in_features] = shape;
        let group_size = scheme.group_size.unwrap_or(in_features);
        let groups = in_features.div_ceil(group_size);
        let part = |part: &str| shards.tensor(&format!("{module}{part}"));
        let (qweight, qzeros, scales) = (part(".qweight")?, part(".qzeros")?, part(".scales")?);
        qweight.expect_shape(&[words_per_row(in_features, scheme.bits), out_features])?;
        qzeros.expect_shape(&[groups, words_per_row(out_features, scheme.bits)])?;
        scales.expect_shape(&[groups, out_features])?;
        for tensor in [&qweight, &qzeros] {
            if tensor.dtype != Dtype::I32 {
                return Err(tensor.wrong(format!("expected I32, got {:?}", tensor.dtype)));
            }
        }
        let g_idx = shards.get(&format!("{module}.g_idx"));
        let order =
            g_idx.map(|g_idx| ordering::of_groups(&g_idx, in_features, group_size)).transpose()?.flatten();
        Ok(Self {
            shape,
            bits: scheme.bits,
            group_size,
            zeros_minus_one: scheme.zeros_minus_one,
            symmetric: scheme.symmetric,
            desc_act: scheme.desc_act,
            qweight,
            qzeros,
            scales: StoredScales::new(scales, [out_features, groups], true)?,
            g_idx,
            order,
        })
    }

    fn groups(&self) -> usize {
        self.shape[1].div_ceil(self.group_size)
    }
}

impl Layer for GptqLayer<'_> {
    fn layout(&self) -> PackedLayout {
        let levels = if self.symmetric { LevelsKind::Zero } else { LevelsKind::Zeros };
        PackedLayout { bits: self.bits, group_size: self.group_size, levels, ordered: self.desc_act }
    }

    fn scales(&self) -> &StoredScales<'_> {
        &self.scales
    }

    fn bytes(&self) -> usize {
        let tensors = [Some(self.qweight), Some(self.qzeros), Some(*self.scales.tensor()), self.g_idx];
        tensors.iter().flatten().map(|tensor| tensor.bytes.len()).sum()
    }

    fn packed(&self) -> Result<PackedWeight> {
        let [out_features, in_features] = self.shape;
        let words = words_per_row(in_features, self.bits);
        let column_words = self.qweight.bytes.as_chunks::<4>().0;
        let mut codes = vec![0u32; out_features * words];
        host::prefer_huge_pages(&mut codes);
        // The unused high bits of a row's last word.
        let unused = words * 32 - in_features * self.bits as usize;
        codes.par_chunks_mut(TRANSPOSED_ROWS * words).enumerate().for_each(|(block, rows)| {
            let first = block * TRANSPOSED_ROWS;
            for w in 0..words {
                let column = &column_words[w * out_features + first..];
                for (row, word) in rows.chunks_exact_mut(words).zip(column) {
                    row[w] = u32::from_le_bytes(*word);
                }
            }
            for row in rows.chunks_exact_mut(words) {
                row[words - 1] &= u32::MAX >> unused;
            }
        });
        if let Some(order) = &self.order {
            ordering::apply(&mut codes, self.bits, order);
        }
        Ok(PackedWeight {
            out_features,
            in_features,
            bits: self.bits,
            group_size: self.group_size,
            codes,
            scales: self.scales.values()?,
            levels: self.levels()?,
            perm: self.order.clone(),
        })
    }

    fn levels(&self) -> Result<Levels> {
        let ([out_features, _], groups, bits) = (self.shape, self.groups(), self.bits);
        let words = words_per_row(out_features, bits);
        let mut packed = words_from(&self.qzeros);
        // Zero points that wrapped when 1 was subtracted from whole words borrowed from their
        // neighbour: adding 1 to every field of a word at once gives it back. (3-bit fields straddle
        // words; there each field wraps by itself, as in GPTQModel.)
        let whole_words = self.zeros_minus_one && bits != 3;
        if whole_words {
            let ones = (0..32).step_by(bits as usize).fold(0u32, |ones, bit| ones | 1 << bit);
            packed.iter_mut().for_each(|word| *word = word.wrapping_add(ones));
        }
        let offset = u32::from(self.zeros_minus_one && !whole_words);
        let zero = |o: usize, g: usize| {
            let field = get_code(&packed[g * words..(g + 1) * words], o, bits);
            ((field + offset) & ((1 << bits) - 1)) as u8
        };
        let zeros: Vec<u8> = (0..out_features * groups).map(|i| zero(i / groups, i % groups)).collect();
        Ok(match zeros.first() {
            Some(&first) if zeros.iter().all(|&z| z == first) => Levels::Zero(first),
            _ => Levels::Zeros(zeros),
        })
    }
}

/// How GPTQ directories are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GptqPacking {
    pub bits: u32,
    /// `None`: one group per row.
    pub group_size: Option<usize>,
    pub symmetric: bool,
    /// Whether groups may hold features that are no neighbours.
    pub desc_act: bool,
    /// Recorded in the config, where other tools expect them.
    pub static_groups: bool,
    pub damp_percent: f64,
    pub true_sequential: bool,
}

impl Default for GptqPacking {
    fn default() -> Self {
        Self {
            bits: 4,
            group_size: Some(128),
            symmetric: true,
            desc_act: false,
            static_groups: false,
            damp_percent: 0.01,
            true_sequential: true,
        }
    }
}

impl Packing for GptqPacking {
    fn scale_dtype(&self) -> FloatType {
        FloatType::F16
    }

    fn settings(&self) -> Value {
        json!({
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group_size.map_or(json!(-1), |size| json!(size)),
            "desc_act": self.desc_act,
            "sym": self.symmetric,
            "lm_head": false,
            "damp_percent": self.damp_percent,
            "true_sequential": self.true_sequential,
            "static_groups": self.static_groups,
            "pack_dtype": "int32",
            "checkpoint_format": if self.symmetric { "gptq" } else { "gptq_v2" },
        })
    }

    fn has_own_config(&self) -> bool {
        true
    }

    fn describe(
        &self,
        [out_features, in_features]: [usize; 2],
    ) -> Result<Vec<(String, Dtype, Vec<usize>)>, String> {
        let groups = in_features.div_ceil(self.group_size.unwrap_or(in_features).max(1));
        let parts = [
            (Dtype::I32, vec![words_per_row(in_features, self.bits), out_features]),
            (Dtype::I32, vec![groups, words_per_row(out_features, self.bits)]),
            (Dtype::F16, vec![groups, out_features]),
            (Dtype::I32, vec![in_features]),
        ];
        Ok(PARTS.iter().zip(parts).map(|(part, (dtype, shape))| (part.to_string(), dtype, shape)).collect())
    }

    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        expect(packed, self.bits, self.group_size)?;
        let (out_features, groups, bits) = (packed.out_features, packed.groups(), packed.bits);
        let words = words_per_row(out_features, bits);
        let mut qzeros = vec![0u32; groups * words];
        for o in 0..out_features {
            for g in 0..groups {
                let zero = match &packed.levels {
                    Levels::Zero(zero) => *zero,
                    Levels::Zeros(zeros) => zeros[o * groups + g],
                    _ => {
                        return Err("GPTQ stores integer zero points, not minima or codebooks".into());
                    }
                };
                let stored = match self.symmetric {
                    true => zero.checked_sub(1).ok_or("a zero point of 0 in a symmetric GPTQ checkpoint")?,
                    false => zero,
                };
                put_code(&mut qzeros[g * words..(g + 1) * words], o, bits, u32::from(stored));
            }
        }
        let (codes, g_idx) = ordering::undo(packed);
        Ok(vec![
            transpose(&codes, out_features, u32::to_le_bytes).into_flattened(),
            word_bytes(&qzeros),
            f16_bytes(&transpose(&packed.scales, out_features, |scale| scale))?,
            word_bytes(&g_idx),
        ])
    }
}

#[cfg(test)]
mod tests;
