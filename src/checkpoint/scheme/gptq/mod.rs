//! GPTQ's tensors. One linear `M` of shape `[out, in]` is stored as
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

use super::bytes::transpose;
use super::config::{group_size, group_size_json, read_settings};
use super::tensors::TensorRole::{Codes, GroupIndex, TransposedScales, Zeros};
use super::tensors::{StoredLayout, TensorSpec};
use super::traits::{LinearFormat, Packing, Scheme};
use crate::arch::hf::loose::{Flag, is_set};
use crate::checkpoint::Format;
use crate::checkpoint::safetensors::Dtype;
use crate::error::{Error, Result};
use crate::packed::{Levels, LevelsKind, PackedLayout, words_per_row};

/// Rows that are transposed together: a cache line of the file holds a word of each.
const TRANSPOSED_ROWS: usize = 16;

pub const PARTS: [&str; 4] = [".qweight", ".qzeros", ".scales", ".g_idx"];

/// Settings in config.json, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gptq {
    pub bits: u32,
    /// `None`: one group per row (−1 in the file).
    pub group_size: Option<usize>,
    /// checkpoint_format "gptq" rather than "gptq_v2".
    pub zeros_minus_one: bool,
    /// One zero point for all groups.
    pub symmetric: bool,
    /// Whether groups may hold features that are no neighbours.
    pub desc_act: bool,
    /// How the weights were quantized. Only written, because other tools expect the keys.
    pub static_groups: bool,
    pub damp_percent: f64,
}

/// Absent keys have transformers' defaults (`GPTQConfig`).
#[derive(Deserialize)]
struct GptqSettings {
    bits: u32,
    group_size: Option<i64>,
    checkpoint_format: Option<String>,
    /// Name of `checkpoint_format` in newer files of GPTQModel.
    format: Option<String>,
    pack_dtype: Option<String>,
    dynamic: Option<Value>,
    sym: Option<Flag>,
    desc_act: Option<Flag>,
    planar: Option<Flag>,
    is_marlin_format: Option<Flag>,
}

impl Gptq {
    /// Settings to write with: asymmetric weights are written in the version that holds every zero point.
    pub fn new(bits: u32, group_size: Option<usize>, symmetric: bool, desc_act: bool) -> Self {
        let (zeros_minus_one, static_groups, damp_percent) = (symmetric, false, 0.01);
        Self { bits, group_size, zeros_minus_one, symmetric, desc_act, static_groups, damp_percent }
    }

    pub fn scheme(self) -> Scheme {
        Scheme {
            format: Format::Gptq,
            name: format!("GPTQ {}-bit", self.bits),
            parts: &PARTS,
            linears: Box::new(self),
        }
    }

    /// # Errors
    /// Missing or impossible values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let raw: GptqSettings = read_settings(path, json, "GPTQ")?;
        let version = raw.checkpoint_format.or(raw.format).unwrap_or_else(|| "gptq".into());
        let is_dynamic = raw.dynamic.is_some_and(|d| d.as_object().is_none_or(|d| !d.is_empty()));
        let (what, works) = match &*version {
            _ if !matches!(raw.bits, 2 | 3 | 4 | 8) => (format!("{} bits", raw.bits), "2, 3, 4 and 8 bits"),
            _ if is_dynamic => ("`dynamic` settings per layer".into(), "the same settings for all layers"),
            _ if is_set(raw.planar) || raw.pack_dtype.is_some_and(|dtype| dtype != "int32") => {
                ("another packing than 32-bit words".into(), "pack_dtype \"int32\"")
            }
            _ if is_set(raw.is_marlin_format) => ("is_marlin_format".into(), "gptq, gptq_v2"),
            "gptq" | "gptq_v2" => {
                let group_size = group_size(path, raw.group_size.unwrap_or(128))?;
                // Files have zero points whatever `sym` says, and they are read.
                let settings = Self::new(raw.bits, group_size, is_set(raw.sym), is_set(raw.desc_act));
                return Ok(Self { zeros_minus_one: version == "gptq", ..settings });
            }
            other => (format!("checkpoint_format \"{other}\""), "gptq, gptq_v2"),
        };
        Err(Error::unsupported(format!("{}: GPTQ with {what}", path.display()), format!("works: {works}")))
    }
}

impl LinearFormat for Gptq {
    fn spec(&self, [out_features, in_features]: [usize; 2]) -> Result<StoredLayout, String> {
        let group_size = self.group_size.unwrap_or(in_features).max(1);
        let groups = in_features.div_ceil(group_size);
        let words = |codes| words_per_row(codes, self.bits);
        let levels = if self.symmetric { LevelsKind::Zero } else { LevelsKind::Zeros };
        let [qweight, qzeros, scales, g_idx] = PARTS;
        let tensors = vec![
            TensorSpec::new(qweight, Codes, Dtype::I32, &[words(in_features), out_features]),
            TensorSpec::new(qzeros, Zeros, Dtype::I32, &[groups, words(out_features)]),
            TensorSpec::new(scales, TransposedScales, Dtype::F16, &[groups, out_features]),
            TensorSpec { optional: true, ..TensorSpec::new(g_idx, GroupIndex, Dtype::I32, &[in_features]) },
        ];
        let layout = PackedLayout { bits: self.bits, group_size, levels, ordered: self.desc_act };
        Ok(StoredLayout { layout, tensors })
    }

    fn unpack(&self, stored: &[u8], [out_features, in_features]: [usize; 2], codes: &mut [u32]) {
        let words = words_per_row(in_features, self.bits);
        let column_words = stored.as_chunks::<4>().0;
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
    }

    fn zero_place(&self, row: usize, group: usize, [out_features, _]: [usize; 2]) -> (usize, usize) {
        (group * words_per_row(out_features, self.bits), row)
    }

    /// Where 1 was subtracted from whole words, zero points that wrapped borrowed from their neighbour: adding 1 to
    /// every field of a word at once gives it back. 3-bit fields straddle words; there each one wraps by itself, as in
    /// GPTQModel.
    fn correct_zeros(&self, words: &mut [u32]) {
        if self.zeros_minus_one && self.bits != 3 {
            let ones = (0..32).step_by(self.bits as usize).fold(0u32, |ones, bit| ones | 1 << bit);
            words.iter_mut().for_each(|word| *word = word.wrapping_add(ones));
        }
    }

    fn zeros(&self, mut zeros: Vec<u8>) -> Levels {
        if self.zeros_minus_one && self.bits == 3 {
            zeros.iter_mut().for_each(|zero| *zero = (*zero + 1) & 7);
        }
        match zeros.first() {
            Some(&first) if zeros.iter().all(|&zero| zero == first) => Levels::Zero(first),
            _ => Levels::Zeros(zeros),
        }
    }
}

impl Packing for Gptq {
    fn settings(&self) -> Value {
        json!({
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": group_size_json(self.group_size),
            "desc_act": self.desc_act,
            "sym": self.symmetric,
            "lm_head": false,
            "damp_percent": self.damp_percent,
            "true_sequential": true,
            "static_groups": self.static_groups,
            "pack_dtype": "int32",
            "checkpoint_format": if self.zeros_minus_one { "gptq" } else { "gptq_v2" },
        })
    }

    fn has_own_config(&self) -> bool {
        true
    }

    fn pack(&self, codes: &[u32], [out_features, _]: [usize; 2]) -> Vec<u8> {
        transpose(codes, out_features, u32::to_le_bytes).into_flattened()
    }

    fn stored_zero(&self, zero: u8) -> Result<u8, String> {
        match self.zeros_minus_one {
            true => zero.checked_sub(1).ok_or("a zero point of 0 in a symmetric GPTQ checkpoint".into()),
            false => Ok(zero),
        }
    }
}

#[cfg(test)]
mod tests;
