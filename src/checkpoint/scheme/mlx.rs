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
//! both are seen from the tensors. A bias moves with its scale by the same factor, so that a group is scaled as a whole.

use std::path::Path;

use serde_json::Value;

use super::super::safetensors::Dtype;
use super::super::shards::{Shards, Tensor};
use super::super::{Format, float};
use super::{Layer, Scheme, StoredScales, words_from};
use crate::error::{Error, Result};
use crate::packed::{Levels, LevelsKind, PackedLayout, PackedWeight, get_code, words_per_row};

/// A dense linear has a weight, too: the scales tell.
pub const PARTS: [&str; 3] = [".scales", ".weight", ".biases"];

pub struct Mlx;

impl Mlx {
    /// # Errors
    /// Another mode than affine.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let modules = json.as_object().into_iter().flatten().map(|(_, settings)| settings);
        for settings in std::iter::once(json).chain(modules) {
            match settings.get("mode").and_then(Value::as_str) {
                None | Some("affine") => {}
                Some(mode) => {
                    return Err(Error::unsupported(
                        format!("{}: MLX quantization of mode \"{mode}\"", path.display()),
                        "works: mode \"affine\"",
                    ));
                }
            }
        }
        Ok(Self)
    }
}

impl Scheme for Mlx {
    fn format(&self) -> Format {
        Format::Mlx
    }

    fn name(&self) -> String {
        "MLX affine".into()
    }

    fn parts(&self) -> &'static [&'static str] {
        &PARTS
    }

    fn open<'a>(
        &'a self,
        shards: &'a Shards,
        module: &str,
        [out_features, in_features]: [usize; 2],
    ) -> Result<Box<dyn Layer + 'a>> {
        let part = |part: &str| shards.tensor(&format!("{module}{part}"));
        let (scales, weight, biases) = (part(".scales")?, part(".weight")?, part(".biases")?);
        let [.., groups] = *scales.shape else { return Err(scales.wrong("expected a matrix")) };
        if groups == 0 || !in_features.is_multiple_of(groups) {
            return Err(scales.wrong(format!("{groups} groups do not fill rows of {in_features}")));
        }
        scales.expect_shape(&[out_features, groups])?;
        biases.expect_shape(&[out_features, groups])?;
        if biases.float_type()? != scales.float_type()? {
            return Err(biases.wrong("is of another type than the scales"));
        }
        if weight.dtype != Dtype::U32 {
            return Err(weight.wrong(format!("expected U32, got {:?}", weight.dtype)));
        }
        let bits = match *weight.shape {
            [_, words] => [2, 3, 4, 5, 6, 8].into_iter().find(|bits| words * 32 == in_features * bits),
            _ => None,
        };
        let Some(bits) = bits else {
            let what = format!(
                "{:?} holds no codes of 2, 3, 4, 5, 6 or 8 bits in rows of {in_features}",
                weight.shape
            );
            return Err(weight.wrong(what));
        };
        weight.expect_shape(&[out_features, in_features * bits / 32])?;
        let scales = StoredScales::new(scales, [out_features, groups], false)?;
        let (shape, group_size) = ([out_features, in_features], in_features / groups);
        Ok(Box::new(MlxLayer { shape, bits: bits as u32, group_size, weight, scales, biases }))
    }
}

struct MlxLayer<'a> {
    shape: [usize; 2],
    bits: u32,
    group_size: usize,
    weight: Tensor<'a>,
    scales: StoredScales<'a>,
    biases: Tensor<'a>,
}

impl MlxLayer<'_> {
    /// The scales that the file can hold, and the biases that move with them, rounded alike.
    fn moved(&self, scales: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (dtype, scales) = (self.biases.float_type()?, self.scales.rounded(scales)?);
        let (old, mut biases) = (self.scales.values()?, self.biases()?);
        for (bias, (new, old)) in biases.iter_mut().zip(scales.iter().zip(old)) {
            if *new != old {
                *bias = dtype.round(new * (*bias / old));
                if !bias.is_finite() {
                    return Err(self
                        .biases
                        .wrong(format!("the bias of the tuned scale {new:e} does not fit {dtype:?}")));
                }
            }
        }
        Ok((scales, biases))
    }

    fn biases(&self) -> Result<Vec<f32>> {
        let biases = self.biases.floats()?;
        match biases.iter().all(|bias| bias.is_finite()) {
            true => Ok(biases),
            false => Err(self.biases.wrong("holds a bias that is not finite")),
        }
    }
}

/// In units of the scale; where that is 0 the group is constant, and the minimum is the bias itself.
fn minima(scales: &[f32], biases: Vec<f32>) -> Levels {
    let units = |(bias, scale): (f32, &f32)| if *scale == 0.0 { bias } else { bias / scale };
    Levels::Minimum(biases.into_iter().zip(scales).map(units).collect())
}

impl Layer for MlxLayer<'_> {
    fn layout(&self) -> PackedLayout {
        let Self { bits, group_size, .. } = *self;
        PackedLayout { bits, group_size, levels: LevelsKind::Minimum, ordered: false }
    }

    fn scales(&self) -> &StoredScales<'_> {
        &self.scales
    }

    fn levels(&self) -> Result<Levels> {
        Ok(minima(&self.scales.values()?, self.biases()?))
    }

    fn packed(&self) -> Result<PackedWeight> {
        let ([out_features, in_features], bits, group_size) = (self.shape, self.bits, self.group_size);
        let (codes, scales) = (words_from(&self.weight), self.scales.values()?);
        let levels = self.levels()?;
        Ok(PackedWeight { out_features, in_features, bits, group_size, codes, scales, levels, perm: None })
    }

    fn bytes(&self) -> usize {
        self.weight.bytes.len() + self.scales.tensor().bytes.len() + self.biases.bytes.len()
    }

    fn rounded(&self, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        let (scales, biases) = self.moved(scales)?;
        let levels = minima(&scales, biases);
        Ok((scales, levels))
    }

    fn tuned_tensors(&self) -> Vec<&Tensor<'_>> {
        vec![self.scales.tensor(), &self.biases]
    }

    fn tuned_bytes(&self, scales: &[f32]) -> Result<Vec<Vec<u8>>> {
        let (scales, biases) = self.moved(scales)?;
        let dtype = self.biases.float_type()?;
        Ok(vec![float::encode(dtype, scales), float::encode(dtype, biases)])
    }

    fn row(&self, row: usize) -> Option<Vec<f32>> {
        let [out_features, in_features] = self.shape;
        if row >= out_features {
            return None;
        }
        let words = words_per_row(in_features, self.bits);
        let stored = self.weight.bytes.as_chunks::<4>().0.get(row * words..(row + 1) * words)?;
        let codes: Vec<u32> = stored.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let groups = in_features / self.group_size;
        let floats = |tensor: &Tensor| {
            let dtype = tensor.float_type().ok()?;
            let bytes = groups * float::bytes_per_value(dtype);
            Some(float::decode(dtype, tensor.bytes.get(row * bytes..(row + 1) * bytes)?))
        };
        let (scales, biases) = (floats(self.scales.tensor())?, floats(&self.biases)?);
        let value = |i: usize| {
            let group = i / self.group_size;
            scales[group] * get_code(&codes, i, self.bits) as f32 + biases[group]
        };
        Some((0..in_features).map(value).collect())
    }
}
