//! The Llama-like decoder; fields carry the names of the checkpoint's tensors.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::linear::{Linear, LinearWeight, forward, vector};
use super::rope::{self, Rotation};
use super::{Input, LOGIT_BYTES, LanguageModel, Session};
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::data::{Sequence, Target};
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, Kernels, KeyRanges, read};
use crate::zo::perturbation::{Noise, Perturb};

/// Rows of the embedding table that are read before its pages are given back: the system maps sixteen
/// pages around each.
const EMBEDDED_ROWS: usize = 64;

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
    perturb: Perturb,
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
        let mut rows = Vec::with_capacity(tokens.len() * self.checkpoint.config().hidden_size);
        for tokens in tokens.chunks(EMBEDDED_ROWS) {
            rows.extend(self.checkpoint.rows("model.embed_tokens.weight", tokens)?);
            self.checkpoint.release();
        }
        let shape = [tokens.len(), self.checkpoint.config().hidden_size];
        let x = Tensor::<B, 2>::from_data(TensorData::new(rows, shape), (&self.device, DType::F32));
        Ok(x.cast(B::tensor_type(self.dtype)))
    }

    /// Final hidden states of packed sequences, once for each part of `perturb`: `[parts · T, hidden]`.
    fn forward(&self, input: Input<'_>, perturb: Perturb) -> Result<Tensor<B, 2>> {
        let parts = perturb.parts().len();
        let mut x = self.embed(input.tokens)?.repeat_dim(0, parts);
        let rows = (0..parts).flat_map(|part| {
            let shift = part * input.tokens.len();
            input.sequences.iter().flat_map(move |sequence| visible(sequence, shift))
        });
        let (positions, bounds): (Vec<usize>, Vec<[usize; 4]>) = rows.unzip();
        let pass = Pass {
            rotation: Rotation::new(positions.into_iter(), &self.frequencies, &self.device),
            keys: key_ranges(bounds.into_iter(), &self.device),
            perturb,
        };
        for layer in &self.layers {
            x = layer.forward(x, &pass, self.checkpoint.config(), None);
        }
        Ok(self.norm.forward(x))
    }

    /// f32 logits of some hidden rows: `[R, hidden]` → `[R, vocab]`.
    fn head(&self, hidden: Tensor<B, 2>, perturb: Perturb) -> Tensor<B, 2> {
        self.lm_head.forward(hidden, perturb).cast(DType::F32)
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
            .filter_map(Linear::packed)
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

    fn log_probs(&self, input: Input<'_>, targets: &[Target], perturb: Perturb) -> Result<Vec<f32>> {
        let (count, parts) = (input.tokens.len(), perturb.parts().len());
        if parts > 1 && count > B::PAIRED_TOKENS {
            let passes = perturb.parts().map(|noise| noise.map_or(Perturb::No, Perturb::By));
            let answers = passes.map(|perturb| self.log_probs(input, targets, perturb));
            return Ok(answers.collect::<Result<Vec<_>>>()?.concat());
        }
        let hidden = self.forward(input, perturb)?;
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|&i| targets[i].row);
        let mut rows: Vec<u32> = order.iter().map(|&i| targets[i].row).collect();
        rows.dedup();
        let mut log_probs = vec![0.0; parts * targets.len()];
        let mut rest = order.as_slice();
        for rows in rows.chunks((self.logit_rows() / parts).max(1)) {
            let here = rest.iter().take_while(|&&i| rows.last().is_some_and(|last| targets[i].row <= *last));
            let (here, later) = rest.split_at(here.count());
            rest = later;
            // Part after part, in the logits as in the answers.
            let every_row = (0..parts).flat_map(|p| rows.iter().map(move |row| *row as usize + p * count));
            let hidden = hidden.clone().select(0, ints(every_row.map(|row| row as i32), &self.device));
            let slots: Vec<(usize, usize)> = (0..parts)
                .flat_map(|p| here.iter().map(move |&i| (p, i)))
                .map(|(p, i)| (p * rows.len() + rows.partition_point(|row| *row < targets[i].row), i))
                .collect();
            let logits = self.head(hidden, perturb); // [parts · R, vocab]
            let vocab = logits.dims()[1];
            let max = logits.clone().max_dim(1);
            let log_sum = (logits.clone() - max.clone()).exp().sum_dim(1).log() + max; // [parts · R, 1]
            let chosen = slots.iter().map(|(slot, i)| (slot * vocab + targets[*i].token as usize) as i32);
            let chosen = logits.reshape([-1]).select(0, ints(chosen, &self.device));
            let slot = slots.iter().map(|(slot, _)| *slot as i32);
            let log_sum = log_sum.reshape([-1]).select(0, ints(slot, &self.device));
            // The device is waited for here.
            let answers = read(chosen - log_sum)?;
            for (n, ((_, i), answer)) in slots.iter().zip(answers).enumerate() {
                log_probs[n / here.len() * targets.len() + i] = answer;
            }
        }
        Ok(log_probs)
    }

    fn logits(&self, input: Input<'_>) -> Result<Vec<f32>> {
        let hidden = self.forward(input, Perturb::No)?;
        read(self.head(hidden, Perturb::No))
    }

    fn step(&mut self, noise: Noise) -> Result<()> {
        self.packed_mut().for_each(|(id, weight)| kernels::step(weight, id, noise));
        Ok(())
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        read(self.packed(name)?.scales.clone())
    }

    fn scale_count(&self, name: &str) -> Result<usize> {
        Ok(self.packed(name)?.scales.dims()[0])
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
            keys: key_ranges(positions.clone().map(|t| [0, 0, 0, t + 1]), &decoder.device),
            perturb: Perturb::No,
        };
        for (layer, cache) in decoder.layers.iter().zip(cache) {
            x = layer.forward(x, &pass, decoder.checkpoint.config(), Some(cache));
        }
        *length = positions.end;
        let last = x.narrow(0, tokens.len() - 1, 1);
        read(decoder.head(decoder.norm.forward(last), Perturb::No))
    }
}

impl<B: Kernels> Layer<B> {
    fn forward(
        &self,
        x: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 2> {
        let attended = self.attend(self.input_layernorm.forward(x.clone()), pass, config, cache);
        let x = x + attended;
        let h = self.post_attention_layernorm.forward(x.clone());
        let [gate, up] = forward([&self.gate_proj, &self.up_proj], h, pass.perturb);
        x + self.down_proj.forward(kernels::silu_mul(gate, up), pass.perturb)
    }

    fn attend(
        &self,
        h: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 2> {
        let rows = h.dims()[0];
        let (heads, kv_heads, dim) =
            (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let [q, k, v] = forward([&self.q_proj, &self.k_proj, &self.v_proj], h, pass.perturb);
        let q = pass.rotation.apply(q.reshape([rows, heads, dim])); // [T, nh, D]
        let k = pass.rotation.apply(k.reshape([rows, kv_heads, dim])); // [T, nkv, D]
        let v = v.reshape([rows, kv_heads, dim]);
        let (k, v) = match cache {
            Some(cache) => {
                let (k, v) = match cache.take() {
                    Some((past_k, past_v)) => {
                        (Tensor::cat(vec![past_k, k], 0), Tensor::cat(vec![past_v, v], 0))
                    }
                    None => (k, v),
                };
                *cache = Some((k.clone(), v.clone()));
                (k, v)
            }
            None => (k, v),
        };
        let scale = (dim as f32).sqrt().recip();
        let attended = kernels::attention(q, k, v, &pass.keys, scale); // [T, nh, D]
        self.o_proj.forward(attended.reshape([rows, heads * dim]), pass.perturb)
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

/// Position and visible keys (see [`KeyRanges`]) of every row of a sequence, `shift` rows further down.
fn visible(sequence: &Sequence, shift: usize) -> impl Iterator<Item = (usize, [usize; 4])> + '_ {
    let Sequence { rows, prefix } = sequence;
    let prefix_bounds = if prefix.is_empty() { [0, 0] } else { [prefix.start + shift, prefix.end + shift] };
    rows.clone().map(move |row| {
        let position = prefix.len() + row - rows.start;
        (position, [prefix_bounds[0], prefix_bounds[1], rows.start + shift, row + shift + 1])
    })
}

fn key_ranges<B: Backend>(bounds: impl Iterator<Item = [usize; 4]>, device: &B::Device) -> KeyRanges<B> {
    KeyRanges { bounds: ints(bounds.flatten().map(|bound| bound as i32), device) }
}

fn ints<B: Backend>(values: impl Iterator<Item = i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (device, DType::I32))
}
