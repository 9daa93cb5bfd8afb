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

mod write;

use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::Layout;
use super::float;
use super::safetensors::{Dtype, Shards, Tensor};
use crate::device::host;
use crate::error::{Error, Result};
use crate::kernels::packed::{Levels, LevelsKind, PackedLayout, PackedWeight};
use crate::kernels::packed::{get_code, words_per_row};

pub use write::{GptqOptions, write_gptq};

/// Rows that are transposed together: what one cache line of the file holds.
const TRANSPOSED_ROWS: usize = 16;

/// What `quantization_config` says about all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheme {
    pub bits: u32,
    /// `None`: one group per row (−1 in the file).
    pub group_size: Option<usize>,
    /// checkpoint_format "gptq" rather than "gptq_v2".
    zeros_minus_one: bool,
    /// One zero point for all groups.
    symmetric: bool,
}

#[derive(Deserialize)]
struct QuantizationConfig {
    bits: u32,
    group_size: i64,
    checkpoint_format: Option<String>,
    pack_dtype: Option<String>,
    dynamic: Option<Value>,
    #[serde(default)]
    sym: bool,
    #[serde(default)]
    planar: bool,
    #[serde(default)]
    is_marlin_format: bool,
}

impl Scheme {
    /// # Errors
    /// Missing or impossible values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let raw = QuantizationConfig::deserialize(json)
            .map_err(|e| Error::damaged(path, format!("GPTQ quantization config: {e}")))?;
        let unsupported = |what: String, works: &str| {
            Err(Error::unsupported(
                format!("{}: GPTQ with {what}", path.display()),
                format!("works: {works}"),
            ))
        };
        if !matches!(raw.bits, 2 | 3 | 4 | 8) {
            return unsupported(format!("{} bits", raw.bits), "2, 3, 4 and 8 bits");
        }
        let group_size = match raw.group_size {
            -1 => None,
            size if (1..=i64::from(i32::MAX)).contains(&size) => Some(size as usize),
            size => {
                return Err(Error::damaged(
                    path,
                    format!("GPTQ group_size {size}: expected −1 or more than 0"),
                ));
            }
        };
        if raw.dynamic.is_some_and(|d| d.as_object().is_none_or(|d| !d.is_empty())) {
            return unsupported("`dynamic` settings per layer".into(), "the same settings for all layers");
        }
        if raw.planar || raw.pack_dtype.as_deref().is_some_and(|d| d != "int32") {
            return unsupported("another packing than 32-bit words".into(), "pack_dtype \"int32\"");
        }
        let zeros_minus_one = match raw.checkpoint_format.as_deref() {
            _ if raw.is_marlin_format => return unsupported("is_marlin_format".into(), "gptq, gptq_v2"),
            None | Some("gptq") => true,
            Some("gptq_v2") => false,
            Some(other) => {
                return unsupported(format!("checkpoint_format \"{other}\""), "gptq, gptq_v2");
            }
        };
        Ok(Self { bits: raw.bits, group_size, zeros_minus_one, symmetric: raw.sym })
    }

    pub fn layout(&self, in_features: usize) -> Layout {
        let group_size = self.group_size.unwrap_or(in_features);
        let levels = if self.symmetric { LevelsKind::Zero } else { LevelsKind::Zeros };
        Layout::Packed(PackedLayout { bits: self.bits, group_size, levels, ordered: false })
    }
}

/// One linear's tensors, of checked shapes.
pub struct Layer<'a> {
    shape: [usize; 2],
    bits: u32,
    group_size: usize,
    zeros_minus_one: bool,
    qweight: Tensor<'a>,
    qzeros: Tensor<'a>,
    scales: Tensor<'a>,
    g_idx: Option<Tensor<'a>>,
}

impl<'a> Layer<'a> {
    /// `module` is the weight's name without `.weight`; `shape` is `[out, in]`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape or type; an activation-ordered `g_idx`.
    pub fn open(shards: &'a Shards, module: &str, shape: [usize; 2], scheme: &Scheme) -> Result<Self> {
        let [out_features, in_features] = shape;
        let group_size = scheme.group_size.unwrap_or(in_features);
        let groups = in_features.div_ceil(group_size);
        let layer = Self {
            shape,
            bits: scheme.bits,
            group_size,
            zeros_minus_one: scheme.zeros_minus_one,
            qweight: shards.tensor(&format!("{module}.qweight"))?,
            qzeros: shards.tensor(&format!("{module}.qzeros"))?,
            scales: shards.tensor(&format!("{module}.scales"))?,
            g_idx: shards.get(&format!("{module}.g_idx")),
        };
        layer.qweight.expect_shape(&[words_per_row(in_features, scheme.bits), out_features])?;
        layer.qzeros.expect_shape(&[groups, words_per_row(out_features, scheme.bits)])?;
        layer.scales.expect_shape(&[groups, out_features])?;
        layer.scales.float_type()?;
        for tensor in [&layer.qweight, &layer.qzeros] {
            if tensor.dtype != Dtype::I32 {
                return Err(tensor.wrong(format!("expected I32, got {:?}", tensor.dtype)));
            }
        }
        if let Some(g_idx) = &layer.g_idx {
            g_idx.expect_shape(&[in_features])?;
            let groups = g_idx.integers()?;
            if groups.iter().enumerate().any(|(i, &g)| usize::try_from(g) != Ok(i / group_size)) {
                return Err(Error::unsupported(
                    format!(
                        "{}: `{module}` is quantized in activation order (desc_act): its input features are not \
                         grouped in their own order",
                        g_idx.path.display()
                    ),
                    "works: GPTQ checkpoints made with desc_act = false",
                ));
            }
        }
        Ok(layer)
    }

    /// Bytes of all its tensors.
    pub fn bytes(&self) -> usize {
        let g_idx = self.g_idx.map_or(0, |t| t.bytes.len());
        self.qweight.bytes.len() + self.qzeros.bytes.len() + self.scales.bytes.len() + g_idx
    }

    pub fn packed(&self) -> Result<PackedWeight> {
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
        let (scales, levels) = (self.scales()?, self.levels());
        let (bits, group_size) = (self.bits, self.group_size);
        Ok(PackedWeight { out_features, in_features, bits, group_size, codes, scales, levels, order: None })
    }

    /// What the file can hold of `scales` (`[out, groups]`).
    pub fn rounded(&self, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        let dtype = self.scales.float_type()?;
        let rounded = self.checked(scales)?.into_iter().map(|s| dtype.round(s)).collect();
        Ok((rounded, self.levels()))
    }

    /// The bytes of `M.scales` for `scales` (`[out, groups]`).
    pub fn encode(&self, scales: &[f32]) -> Result<Vec<u8>> {
        let dtype = self.scales.float_type()?;
        let mut bytes = Vec::with_capacity(self.scales.bytes.len());
        for value in transpose(&self.checked(scales)?, self.shape[0]) {
            float::encode_into(dtype, value, &mut bytes);
        }
        Ok(bytes)
    }

    /// `[out, groups]`.
    fn scales(&self) -> Result<Vec<f32>> {
        let stored = self.scales.floats()?;
        match stored.iter().all(|s| s.is_finite()) {
            true => Ok(transpose(&stored, self.groups())),
            false => Err(self.scales.wrong("holds a scale that is not finite")),
        }
    }

    /// The new scales, where the stored ones are not 0: such a group is constant and is not trained.
    fn checked(&self, scales: &[f32]) -> Result<Vec<f32>> {
        let dtype = self.scales.float_type()?;
        let stored = self.scales()?;
        if scales.len() != stored.len() {
            return Err(self.scales.wrong(format!("expected {} scales, got {}", stored.len(), scales.len())));
        }
        stored
            .iter()
            .zip(scales)
            .map(|(&old, &new)| match old == 0.0 {
                true => Ok(old),
                false if dtype.round(new).is_finite() => Ok(new),
                false => Err(self.scales.wrong(format!("the tuned scale {new:e} does not fit {dtype:?}"))),
            })
            .collect()
    }

    fn levels(&self) -> Levels {
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
        match zeros.first() {
            Some(&first) if zeros.iter().all(|&z| z == first) => Levels::Zero(first),
            _ => Levels::Zeros(zeros),
        }
    }

    fn groups(&self) -> usize {
        self.shape[1].div_ceil(self.group_size)
    }
}

fn words_from(tensor: &Tensor) -> Vec<u32> {
    tensor.bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
}

/// `[rows, columns]` → `[columns, rows]`, row-major both.
fn transpose<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let columns = values.len() / rows.max(1);
    (0..values.len()).map(|i| values[(i % rows) * columns + i / rows]).collect()
}

#[cfg(test)]
mod tests;
