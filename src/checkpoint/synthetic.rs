//! Random weights, made when they are asked for and packed from the start, so that speed and memory can be measured at
//! any size without a download.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use half::f16;
use rayon::prelude::*;
use serde_json::Value;

use super::float::DenseValues;
use super::format::Format;
use super::safetensors::Dtype;
use super::store::{Store, TokenizerSource, in_no_file};
use super::tensor::missing;
use super::weight::{Layout, TensorSummary, TunedSource, Weight};
use crate::arch::{Activation, Family, ModelConfig, TrainedTensor};
use crate::device::host;
use crate::error::{Error, Result};
use crate::packed::{FloatType, Levels, LevelsKind, PackedLayout, PackedWeight, words_per_row};
use crate::storage::pages::MappedFile;

/// The dimensions of a published model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelShape {
    /// A few million weights, for a quick check that everything runs.
    Tiny,
    TinyLlama,
    Llama32_1b,
    Llama2_7b,
    Llama2_13b,
    Qwen25_32b,
    Llama3_70b,
}

impl ModelShape {
    const ALL: [Self; 7] = [
        Self::Tiny,
        Self::TinyLlama,
        Self::Llama32_1b,
        Self::Llama2_7b,
        Self::Llama2_13b,
        Self::Qwen25_32b,
        Self::Llama3_70b,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::TinyLlama => "tinyllama-1.1b",
            Self::Llama32_1b => "llama3.2-1b",
            Self::Llama2_7b => "llama2-7b",
            Self::Llama2_13b => "llama2-13b",
            Self::Qwen25_32b => "qwen2.5-32b",
            Self::Llama3_70b => "llama3-70b",
        }
    }

    pub fn config(self) -> ModelConfig {
        // Layers, hidden, intermediate, heads, key/value heads, vocabulary.
        let [layers, hidden, inner, heads, kv_heads, vocab] = match self {
            Self::Tiny => [2, 256, 704, 4, 2, 1024],
            Self::TinyLlama => [22, 2048, 5632, 32, 4, 32000],
            Self::Llama32_1b => [16, 2048, 8192, 32, 8, 128_256],
            Self::Llama2_7b => [32, 4096, 11008, 32, 32, 32000],
            Self::Llama2_13b => [40, 5120, 13824, 40, 40, 32000],
            Self::Qwen25_32b => [64, 5120, 27648, 40, 8, 152_064],
            Self::Llama3_70b => [80, 8192, 28672, 64, 8, 128_256],
        };
        ModelConfig {
            family: Family::Llama,
            vocab_size: vocab,
            hidden_size: hidden,
            intermediate_size: inner,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: hidden / heads,
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: None,
            tie_word_embeddings: false,
            rotary_dim: hidden / heads,
            rotated_layers: None,
            block: Family::Llama.block(),
            hidden_act: Activation::Silu,
            norm_offset: 0.0,
            word_embed_proj_dim: hidden,
            embedding_scale: 1.0,
            residual_multiplier: 1.0,
            logits_scaling: 1.0,
            query_pre_attn_scalar: (hidden / heads) as f64,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: None,
            sliding_window: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        }
    }
}

impl fmt::Display for ModelShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ModelShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|shape| shape.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no such shape: `{text}` (expected {names})")
        })
    }
}

/// Random weights of a model, in no file.
pub struct Synthetic {
    config: ModelConfig,
    /// Names and shapes, byte-sorted.
    tensors: Vec<(String, Vec<usize>)>,
    /// The linears inside the decoder blocks, which are packed.
    linears: Vec<String>,
    bits: u32,
    group_size: usize,
}

impl Synthetic {
    pub fn new(config: ModelConfig, bits: u32, group_size: usize) -> Self {
        let mut tensors: Vec<_> = config.tensors().collect();
        tensors.sort_unstable();
        Self { tensors, linears: config.block_linears(), bits, group_size, config }
    }

    fn is_packed(&self, name: &str) -> bool {
        self.linears.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    fn index(&self, name: &str) -> Result<usize> {
        let found = self.tensors.binary_search_by(|(known, _)| known.as_str().cmp(name));
        let names = self.tensors.iter().map(|(name, _)| name.as_str());
        found.map_err(|_| missing("random weights".as_ref(), name, names))
    }
}

impl Store for Synthetic {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn format(&self) -> Format {
        Format::Synthetic
    }

    fn files(&self) -> &[MappedFile] {
        &[]
    }

    fn tokenizer(&self) -> Result<TokenizerSource> {
        Err(in_no_file())
    }

    fn tensors(&self) -> Vec<TensorSummary> {
        let summary = |(name, shape): &(String, Vec<usize>)| {
            let elements: usize = shape.iter().product();
            let (dtype, bytes) = match self.is_packed(name) {
                true => (format!("random {}-bit", self.bits), elements * self.bits as usize / 8),
                false => ("F16".to_string(), elements * 2),
            };
            TensorSummary::new(name, name, dtype, shape, bytes)
        };
        self.tensors.iter().map(summary).collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.index(name).is_ok()
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.tensors[self.index(name)?].1.clone())
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let index = self.index(name)?;
        let &[out_features, in_features] = &self.tensors[index].1[..] else {
            return Err(Error::tensor("random weights", name, "is no matrix"));
        };
        if !self.is_packed(name) {
            let mut values = vec![f16::ZERO; out_features * in_features];
            values.par_chunks_mut(in_features).enumerate().for_each(|(row, values)| {
                let mut random = RowRandom::new(index, row);
                values.iter_mut().for_each(|value| *value = f16::from_f32(random.float()));
            });
            return Ok(Weight::Dense {
                shape: [out_features, in_features],
                values: DenseValues::F16(values),
            });
        }
        let words = words_per_row(in_features, self.bits);
        let mut codes = vec![0u32; out_features * words];
        host::prefer_huge_pages(&mut codes);
        codes.par_chunks_mut(words).enumerate().for_each(|(row, codes)| {
            let mut random = RowRandom::new(index, row);
            codes.iter_mut().for_each(|word| *word = random.word());
        });
        let groups = in_features.div_ceil(self.group_size);
        // So that activations keep their magnitude from layer to layer.
        let scale = 1.0 / ((1u32 << (self.bits - 1)) as f32 * (in_features as f32 / 3.0).sqrt());
        // The mean level is -1/2. With scales of one sign, every product would add a multiple of the sum of its inputs, and
        // after a few blocks attention would see one token each, with gradients too small for f32.
        let sign = |i: usize| if (i / groups + i % groups).is_multiple_of(2) { 1.0 } else { -1.0 };
        Ok(Weight::Packed(PackedWeight {
            out_features,
            in_features,
            bits: self.bits,
            group_size: self.group_size,
            codes,
            scales: (0..out_features * groups).map(|i| sign(i) * scale).collect(),
            levels: Levels::Zero(1 << (self.bits - 1)),
            perm: None,
        }))
    }

    fn layout(&self, name: &str) -> Result<Layout> {
        self.index(name)?;
        Ok(match self.is_packed(name) {
            true => Layout::Packed(PackedLayout {
                bits: self.bits,
                group_size: self.group_size,
                levels: LevelsKind::Zero,
                ordered: false,
            }),
            false => Layout::Dense(FloatType::F16),
        })
    }

    fn dense(&self, name: &str) -> Result<Vec<f32>> {
        let index = self.index(name)?;
        match &self.tensors[index].1[..] {
            // Norms and biases.
            &[length] => Ok(vec![if name.ends_with("bias") { 0.0 } else { 1.0 }; length]),
            _ => Err(Error::tensor("random weights", name, "is made row by row")),
        }
    }

    fn rows_into(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<()> {
        let index = self.index(name)?;
        let width = values.len() / rows.len().max(1);
        for (&row, values) in rows.iter().zip(values.chunks_exact_mut(width.max(1))) {
            let mut random = RowRandom::new(index, row as usize);
            values.iter_mut().for_each(|value| *value = random.float());
        }
        Ok(())
    }

    fn trained_names(&self) -> Vec<String> {
        self.linears.clone()
    }

    fn scales(&self, _name: &str) -> Result<Vec<f32>> {
        Err(in_no_file())
    }

    fn scale_dtype(&self, _name: &str) -> Result<FloatType> {
        Err(in_no_file())
    }

    fn rounded_scales(&self, _name: &str, _scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        Err(in_no_file())
    }

    fn minima(&self, _name: &str) -> Result<Vec<f32>> {
        Err(in_no_file())
    }

    fn save_tuned(
        &self,
        _out: &Path,
        _names: &[String],
        _tensors: &[TrainedTensor],
        _tuned: &mut TunedSource,
    ) -> Result<()> {
        Err(in_no_file())
    }

    fn plain_names(&self) -> Vec<String> {
        let names = self.tensors.iter().map(|(name, _)| name);
        names.filter(|name| !self.is_packed(name)).cloned().collect()
    }

    fn plain_is_exact(&self, _name: &str) -> bool {
        false
    }

    fn plain_layout(&self, _name: &str) -> Result<(Dtype, Vec<usize>)> {
        Err(in_no_file())
    }

    fn plain_bytes(&self, _name: &str) -> Result<Cow<'_, [u8]>> {
        Err(in_no_file())
    }

    fn write_companions(&self, _to: &Path, _whole: bool) -> Result<Value> {
        Err(in_no_file())
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014), one stream per row.
struct RowRandom(u64);

impl RowRandom {
    fn new(tensor: usize, row: usize) -> Self {
        Self(((tensor as u64) << 32 | row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 32) as u32
    }

    /// Uniform in [−0.05, 0.05): about as large as embeddings are.
    fn float(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 24) as f32 * 0.1 - 0.05
    }
}
