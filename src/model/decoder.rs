//! The Llama-like decoder; fields carry the names of the checkpoint's tensors.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::linear::{Linear, LinearWeight, vector};
use super::rope::{self, Rotation};
use super::{Input, LanguageModel, Session};
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::data::Target;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, Kernels, KeyRanges, read};
use crate::zo::perturbation::Noise;

/// Bytes of f32 logits that exist at a time.
const LOGIT_BYTES: usize = 32 << 20;

pub struct Decoder<B: Kernels> {
    checkpoint: Arc<Checkpoint>,
    trained: Vec<String>,
    device: B::Device,
    dtype: ComputeType,
    frequencies: Vec<f32>,
    layers: Vec<Layer<B>>,
    norm: RmsNorm<B>,
    lm_head: Linear<B>,
}

struct Layer<B: Backend> {
    input_layernorm: RmsNorm<B>,
    q_proj: Linear<B>,
    k_proj: Linear<B>,
    v_proj: Linear<B>,
    o_proj: Linear<B>,
    post_attention_layernorm: RmsNorm<B>,
    gate_proj: Linear<B>,
    up_proj: Linear<B>,
    down_proj: Linear<B>,
}

struct RmsNorm<B: Backend> {
    /// `[hidden]`, f32
    weight: Tensor<B, 1>,
    eps: f32,
}

/// What every layer of one pass shares.
struct Pass<B: Backend> {
    rotation: Rotation<B>,
    keys: KeyRanges<B>,
    noise: Option<Noise>,
}

/// Keys and values of the tokens so far, `[S, kv_heads, head_dim]` each.
type LayerCache<B> = Option<(Tensor<B, 3>, Tensor<B, 3>)>;

impl<B: Kernels> Decoder<B> {
    pub fn load(
        checkpoint: Arc<Checkpoint>,
        device: B::Device,
        dtype: ComputeType,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        let trained = checkpoint.trained_names();
        let linear = |name: &str, bias| Linear::load(&checkpoint, name, bias, &trained, &device, dtype);
        let norm = |name: &str| -> Result<RmsNorm<B>> {
            let weight = vector(&checkpoint, &format!("{name}.weight"), &device, ComputeType::F32)?;
            Ok(RmsNorm { weight, eps: config.rms_norm_eps as f32 })
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            progress(index, config.num_hidden_layers);
            let at = |part: &str| format!("model.layers.{index}.{part}");
            layers.push(Layer {
                input_layernorm: norm(&at("input_layernorm"))?,
                q_proj: linear(&at("self_attn.q_proj"), config.attention_bias)?,
                k_proj: linear(&at("self_attn.k_proj"), config.attention_bias)?,
                v_proj: linear(&at("self_attn.v_proj"), config.attention_bias)?,
                o_proj: linear(&at("self_attn.o_proj"), config.attention_bias)?,
                post_attention_layernorm: norm(&at("post_attention_layernorm"))?,
                gate_proj: linear(&at("mlp.gate_proj"), config.mlp_bias)?,
                up_proj: linear(&at("mlp.up_proj"), config.mlp_bias)?,
                down_proj: linear(&at("mlp.down_proj"), config.mlp_bias)?,
            });
        }
        progress(config.num_hidden_layers, config.num_hidden_layers);
        let head = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        let (norm, lm_head) = (norm("model.norm")?, linear(head, false)?);
        let frequencies = rope::inverse_frequencies(&config);
        Ok(Self { checkpoint, trained, device, dtype, frequencies, layers, norm, lm_head })
    }

    /// Token embeddings, read from the checkpoint file: `[T, hidden]`.
    fn embed(&self, tokens: &[u32]) -> Result<Tensor<B, 2>> {
        let rows = self.checkpoint.rows("model.embed_tokens.weight", tokens)?;
        let shape = [tokens.len(), self.checkpoint.config().hidden_size];
        let x = Tensor::<B, 2>::from_data(TensorData::new(rows, shape), (&self.device, DType::F32));
        Ok(x.cast(B::tensor_type(self.dtype)))
    }

    /// Final hidden states of packed sequences: `[T, hidden]`.
    fn forward(&self, input: Input<'_>, noise: Option<Noise>) -> Result<Tensor<B, 2>> {
        let mut x = self.embed(input.tokens)?;
        let positions = input.sequences.iter().flat_map(|s| 0..s.len());
        let ranges = input.sequences.iter().flat_map(|s| s.clone().map(|t| (s.start, t + 1)));
        let pass = Pass {
            rotation: Rotation::new(positions, &self.frequencies, &self.device),
            keys: key_ranges(ranges, &self.device),
            noise,
        };
        for layer in &self.layers {
            x = layer.forward(x, &pass, self.checkpoint.config(), &mut None);
        }
        Ok(self.norm.forward(x))
    }

    /// f32 logits of some hidden rows: `[R, hidden]` → `[R, vocab]`.
    fn head(&self, hidden: Tensor<B, 2>, noise: Option<Noise>) -> Tensor<B, 2> {
        self.lm_head.forward(hidden, noise).cast(DType::F32)
    }

    fn logit_rows(&self) -> usize {
        (LOGIT_BYTES / 4 / self.checkpoint.config().vocab_size).max(1)
    }

    fn packed_mut(&mut self) -> impl Iterator<Item = (u32, &mut DeviceWeight<B>)> {
        self.layers.iter_mut().flat_map(Layer::linears_mut).filter_map(|linear| match &mut linear.weight {
            LinearWeight::Packed(weight) => weight.parameter.map(|id| (id, weight)),
            LinearWeight::Dense(_) => None,
        })
    }

    fn packed(&self, name: &str) -> Result<&DeviceWeight<B>> {
        let id = self.parameter(name)?;
        let weights = self.layers.iter().flat_map(Layer::linears);
        weights
            .filter_map(|linear| match &linear.weight {
                LinearWeight::Packed(weight) => Some(weight),
                LinearWeight::Dense(_) => None,
            })
            .find(|weight| weight.parameter == Some(id))
            .ok_or_else(|| Error::tensor(self.checkpoint.path(), name, "is not on the device"))
    }

    fn parameter(&self, name: &str) -> Result<u32> {
        let found = self.trained.binary_search_by(|t| t.as_str().cmp(name));
        let index =
            found.map_err(|_| Error::tensor(self.checkpoint.path(), name, "is not a trained weight"))?;
        Ok(index as u32)
    }
}

impl<B: Kernels> LanguageModel for Decoder<B> {
    fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    fn trained(&self) -> &[String] {
        &self.trained
    }

    fn log_probs(&self, input: Input<'_>, targets: &[Target], noise: Option<Noise>) -> Result<Vec<f32>> {
        let hidden = self.forward(input, noise)?;
        let mut rows: Vec<u32> = targets.iter().map(|t| t.row).collect();
        rows.dedup();
        let mut log_probs = Vec::with_capacity(targets.len());
        let mut rest = targets;
        for rows in rows.chunks(self.logit_rows()) {
            let count = rest.iter().take_while(|t| rows.last().is_some_and(|last| t.row <= *last)).count();
            let (targets, later) = rest.split_at(count);
            rest = later;
            let slot = |t: &Target| rows.partition_point(|row| *row < t.row) as i32;
            let hidden = hidden.clone().select(0, ints(rows.iter().map(|r| *r as i32), &self.device));
            let logits = self.head(hidden, noise); // [R, vocab]
            let vocab = logits.dims()[1] as i32;
            let max = logits.clone().max_dim(1);
            let log_sum = (logits.clone() - max.clone()).exp().sum_dim(1).log() + max; // [R, 1]
            let chosen = logits
                .reshape([-1])
                .select(0, ints(targets.iter().map(|t| slot(t) * vocab + t.token as i32), &self.device));
            let log_sum = log_sum.reshape([-1]).select(0, ints(targets.iter().map(slot), &self.device));
            // The device is waited for here.
            log_probs.extend(read(chosen - log_sum)?);
        }
        Ok(log_probs)
    }

    fn logits(&self, input: Input<'_>) -> Result<Vec<f32>> {
        let hidden = self.forward(input, None)?;
        read(self.head(hidden, None))
    }

    fn step(&mut self, noise: Noise) -> Result<()> {
        self.packed_mut().for_each(|(id, weight)| kernels::step(weight, id, noise));
        Ok(())
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        read(self.packed(name)?.scales.clone())
    }

    fn set_scales(&mut self, name: &str, scales: Vec<f32>) -> Result<()> {
        let id = self.parameter(name)?;
        let device = self.device.clone();
        let path = self.checkpoint.path().to_path_buf();
        let found = self.packed_mut().find(|(parameter, _)| *parameter == id);
        let (_, weight) = found.ok_or_else(|| Error::tensor(&path, name, "is not on the device"))?;
        let expected = weight.scales.dims()[0];
        if scales.len() != expected {
            let what = format!("has {expected} scales, but {} were given", scales.len());
            return Err(Error::tensor(path, name, what));
        }
        weight.scales = Tensor::from_data(TensorData::new(scales, [expected]), (&device, DType::F32));
        Ok(())
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Growing { decoder: self, length: 0, cache: self.layers.iter().map(|_| None).collect() })
    }
}

struct Growing<'a, B: Kernels> {
    decoder: &'a Decoder<B>,
    length: usize,
    cache: Vec<LayerCache<B>>,
}

impl<B: Kernels> Session for Growing<'_, B> {
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let Self { decoder, length, cache } = self;
        let mut x = decoder.embed(tokens)?;
        let positions = *length..*length + tokens.len();
        let pass = Pass {
            rotation: Rotation::new(positions.clone(), &decoder.frequencies, &decoder.device),
            keys: key_ranges(positions.clone().map(|t| (0, t + 1)), &decoder.device),
            noise: None,
        };
        for (layer, cache) in decoder.layers.iter().zip(cache) {
            x = layer.forward(x, &pass, decoder.checkpoint.config(), cache);
        }
        *length = positions.end;
        let last = x.narrow(0, tokens.len() - 1, 1);
        read(decoder.head(decoder.norm.forward(last), None))
    }
}

impl<B: Kernels> Layer<B> {
    fn forward(
        &self,
        x: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: &mut LayerCache<B>,
    ) -> Tensor<B, 2> {
        let attended = self.attend(self.input_layernorm.forward(x.clone()), pass, config, cache);
        let x = x + attended;
        let h = self.post_attention_layernorm.forward(x.clone());
        let gate = self.gate_proj.forward(h.clone(), pass.noise);
        let up = self.up_proj.forward(h, pass.noise);
        x + self.down_proj.forward(kernels::silu_mul(gate, up), pass.noise)
    }

    fn attend(
        &self,
        h: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: &mut LayerCache<B>,
    ) -> Tensor<B, 2> {
        let rows = h.dims()[0];
        let (heads, kv_heads, dim) =
            (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let q = self.q_proj.forward(h.clone(), pass.noise).reshape([rows, heads, dim]); // [T, nh, D]
        let k = self.k_proj.forward(h.clone(), pass.noise).reshape([rows, kv_heads, dim]); // [T, nkv, D]
        let v = self.v_proj.forward(h, pass.noise).reshape([rows, kv_heads, dim]);
        let (q, k) = (pass.rotation.apply(q), pass.rotation.apply(k));
        let (k, v) = match cache.take() {
            Some((past_k, past_v)) => (Tensor::cat(vec![past_k, k], 0), Tensor::cat(vec![past_v, v], 0)),
            None => (k, v),
        };
        *cache = Some((k.clone(), v.clone()));
        let scale = (dim as f32).sqrt().recip();
        let attended = kernels::attention(q, k, v, &pass.keys, scale); // [T, nh, D]
        self.o_proj.forward(attended.reshape([rows, heads * dim]), pass.noise)
    }

    fn linears(&self) -> [&Linear<B>; 7] {
        let Self { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = self;
        [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    }

    fn linears_mut(&mut self) -> [&mut Linear<B>; 7] {
        let Self { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = self;
        [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    }
}

impl<B: Kernels> RmsNorm<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        kernels::rms_norm(x, self.weight.clone(), self.eps)
    }
}

fn key_ranges<B: Backend>(ranges: impl Iterator<Item = (usize, usize)>, device: &B::Device) -> KeyRanges<B> {
    let (begin, end): (Vec<i32>, Vec<i32>) = ranges.map(|(begin, end)| (begin as i32, end as i32)).unzip();
    KeyRanges { begin: ints(begin.into_iter(), device), end: ints(end.into_iter(), device) }
}

fn ints<B: Backend>(values: impl Iterator<Item = i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (device, DType::I32))
}
