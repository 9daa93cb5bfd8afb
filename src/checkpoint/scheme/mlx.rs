//! MLX's affine quantization ([`mlx.core.quantize`](https://ml-explore.github.io/mlx)), as mlx-lm saves models. One
//! linear or table `M` of shape `[out, in]`:
//!
//! ```text
//! M.weight  u32 [out, in·bits/32]       codes, low bits first; those of 3, 5 and 6 bits straddle words
//! M.scales  f16 or bf16 [out, in/group_size], of either sign
//! M.biases  as the scales
//! weight[o, i] = scales[o, g] · code[o, i] + biases[o, g],  g = i / group_size
//! ```
//!
//! config.json says `group_size` and `bits` under `quantization`, and those of single modules where they differ; here
//! both follow from the shapes of the tensors. A bias moves with its scale, see [`super::scales`].

use std::path::Path;

use serde_json::Value;

use super::tensors::TensorRole::{Codes, Minima, Scales};
use super::tensors::{LinearTensors, StoredLayout, TensorSpec};
use super::traits::{LinearFormat, LinearFormats, Scheme};
use crate::checkpoint::safetensors::{Dtype, dtype};
use crate::checkpoint::shards::Shards;
use crate::checkpoint::{Format, float};
use crate::error::{Error, Result};
use crate::packed::{FloatType, LevelsKind, PackedLayout, get_code, words_per_row};

const SCALES: &str = ".scales";
const WEIGHT: &str = ".weight";
pub const BIASES: &str = ".biases";

/// Dense linears also have a weight: a linear is quantized where it has scales.
const PARTS: [&str; 3] = [SCALES, WEIGHT, BIASES];

pub struct Mlx;

impl Mlx {
    pub fn scheme(self) -> Scheme {
        Scheme { format: Format::Mlx, name: "MLX affine".into(), parts: &PARTS, linears: Box::new(self) }
    }

    /// # Errors
    /// Another mode than affine.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let modules = json.as_object().into_iter().flatten().map(|(_, settings)| settings);
        let mut modes = std::iter::once(json).chain(modules).filter_map(|s| s.get("mode")?.as_str());
        match modes.find(|mode| *mode != "affine") {
            None => Ok(Self),
            Some(mode) => Err(Error::unsupported(
                format!("{}: MLX quantization of mode \"{mode}\"", path.display()),
                "works: mode \"affine\"",
            )),
        }
    }
}

impl LinearFormats for Mlx {
    fn linear(&self, shards: &Shards, module: &str, shape: [usize; 2]) -> Result<Box<dyn LinearFormat>> {
        let [scales, weight, biases] = PARTS.map(|part| shards.tensor(&format!("{module}{part}")));
        let (scales, weight, biases, [_, in_features]) = (scales?, weight?, biases?, shape);
        let [.., groups] = *scales.shape else { return Err(scales.wrong("expected a matrix")) };
        if groups == 0 || !in_features.is_multiple_of(groups) {
            return Err(scales.wrong(format!("{groups} groups do not fill rows of {in_features}")));
        }
        let float = scales.float_type()?;
        if biases.float_type()? != float {
            return Err(biases.wrong("is of another type than the scales"));
        }
        let bits = match *weight.shape {
            [_, words] => {
                [2, 3, 4, 5, 6, 8].into_iter().find(|bits| words.checked_mul(32) == Some(in_features * bits))
            }
            _ => None,
        };
        let Some(bits) = bits else {
            let what = format!(
                "{:?} holds no codes of 2, 3, 4, 5, 6 or 8 bits in rows of {in_features}",
                weight.shape
            );
            return Err(weight.wrong(what));
        };
        Ok(Box::new(MlxLinear { bits: bits as u32, group_size: in_features / groups, float }))
    }
}

/// Format of one linear, as its tensors show it.
struct MlxLinear {
    bits: u32,
    group_size: usize,
    /// Type of scales and biases.
    float: FloatType,
}

impl LinearFormat for MlxLinear {
    fn spec(&self, [out_features, in_features]: [usize; 2]) -> Result<StoredLayout, String> {
        let (&Self { bits, group_size, .. }, float) = (self, dtype(self.float));
        let (words, groups) = (words_per_row(in_features, bits), in_features / group_size);
        let tensors = vec![
            TensorSpec::new(SCALES, Scales, float, &[out_features, groups]),
            TensorSpec::new(WEIGHT, Codes, Dtype::U32, &[out_features, words]),
            TensorSpec::new(BIASES, Minima, float, &[out_features, groups]),
        ];
        let layout = PackedLayout { bits, group_size, levels: LevelsKind::Minimum, ordered: false };
        Ok(StoredLayout { layout, tensors })
    }

    fn row(&self, tensors: &LinearTensors, shape: [usize; 2], row: usize) -> Option<Vec<f32>> {
        let [out_features, in_features] = shape;
        if row >= out_features {
            return None;
        }
        let words = words_per_row(in_features, self.bits);
        let stored = tensors.get(Codes)?.bytes.as_chunks::<4>().0.get(row * words..(row + 1) * words)?;
        let codes: Vec<u32> = stored.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let groups = in_features / self.group_size;
        let floats = |ending: &str| {
            let bytes = groups * float::bytes_per_value(self.float);
            let stored = tensors.with_ending(ending)?.bytes.get(row * bytes..(row + 1) * bytes)?;
            Some(float::decode(self.float, stored))
        };
        let (scales, biases) = (floats(SCALES)?, floats(BIASES)?);
        let value = |i: usize| {
            let group = i / self.group_size;
            scales[group] * get_code(&codes, i, self.bits) as f32 + biases[group]
        };
        Some((0..in_features).map(value).collect())
    }
}
