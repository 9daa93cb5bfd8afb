//! One decoder block: its weights, and the steps of its pass. Fields carry the names of the checkpoint's
//! tensors.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::linear::{Linear, forward, vector};
use super::rope::Rotation;
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::data::Sequence;
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::{self, Kernels, KeyRanges};
use crate::zo::perturbation::Perturb;

/// Rows of the embedding table that are read before its pages are given back: the system maps sixteen
/// pages around each.
const EMBEDDED_ROWS: usize = 64;

pub struct Layer<B: Backend> {
    pub input_layernorm: RmsNorm<B>,
    pub q_proj: Linear<B>,
    pub k_proj: Linear<B>,
    pub v_proj: Linear<B>,
    pub o_proj: Linear<B>,
    pub post_attention_layernorm: RmsNorm<B>,
    pub gate_proj: Linear<B>,
    pub up_proj: Linear<B>,
    pub down_proj: Linear<B>,
}

pub struct RmsNorm<B: Backend> {
    /// `[hidden]`, f32
    weight: Tensor<B, 1>,
    eps: f32,
}

/// What every layer of one pass shares.
pub struct Pass<B: Backend> {
    rotation: Rotation<B>,
    keys: KeyRanges<B>,
    perturb: Perturb,
}

/// Keys and values of the tokens so far, `[S, kv_heads, head_dim]` each.
pub type LayerCache<B> = Option<(Tensor<B, 3>, Tensor<B, 3>)>;

impl<B: Kernels> Pass<B> {
    /// `rows`: position and visible keys of each.
    pub fn new(
        rows: impl Iterator<Item = (usize, [usize; 4])>,
        frequencies: &[f32],
        perturb: Perturb,
        device: &B::Device,
    ) -> Self {
        let (positions, bounds): (Vec<usize>, Vec<[usize; 4]>) = rows.unzip();
        Self {
            rotation: Rotation::new(positions.into_iter(), frequencies, device),
            keys: key_ranges(bounds.into_iter(), device),
            perturb,
        }
    }
}

impl<B: Kernels> Layer<B> {
    pub fn load(
        checkpoint: &Checkpoint,
        index: usize,
        trained: &[String],
        device: &B::Device,
        dtype: ComputeType,
    ) -> Result<Self> {
        let config = checkpoint.config();
        let at = |part: &str| format!("model.layers.{index}.{part}");
        let linear = |part: &str, bias| Linear::load(checkpoint, &at(part), bias, trained, device, dtype);
        let norm = |part: &str| RmsNorm::load(checkpoint, &at(part), device);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            q_proj: linear("self_attn.q_proj", config.attention_bias)?,
            k_proj: linear("self_attn.k_proj", config.attention_bias)?,
            v_proj: linear("self_attn.v_proj", config.attention_bias)?,
            o_proj: linear("self_attn.o_proj", config.attention_bias)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_proj: linear("mlp.gate_proj", config.mlp_bias)?,
            up_proj: linear("mlp.up_proj", config.mlp_bias)?,
            down_proj: linear("mlp.down_proj", config.mlp_bias)?,
        })
    }

    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 2> {
        let attended = self.attend(self.input_layernorm.forward(x.clone()), pass, config, cache);
        let x = x + self.o_proj.forward(attended, pass.perturb);
        let gated = self.gate(self.post_attention_layernorm.forward(x.clone()), pass.perturb);
        x + self.down_proj.forward(gated, pass.perturb)
    }

    /// What attention gives before its output projection: `[T, heads · head_dim]`.
    pub fn attend(
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
        attended.reshape([rows, heads * dim])
    }

    /// The attention that the first keys of each sequence receive: `Σ p²` over queries and heads, f32
    /// `[T, head_dim]` by query, column `i` for the key `i` places behind the first of its sequence.
    pub fn received(
        &self,
        h: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        lengths: &[usize],
    ) -> Tensor<B, 2> {
        let rows = h.dims()[0];
        let (heads, kv_heads, dim) =
            (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let device = h.device();
        let [q, k] = forward([&self.q_proj, &self.k_proj], h, pass.perturb);
        let q = pass.rotation.apply(q.reshape([rows, heads, dim]));
        let k = pass.rotation.apply(k.reshape([rows, kv_heads, dim]));
        // Values that name their keys make attention give its own probabilities.
        let name = |i: usize| (0..kv_heads * dim).map(move |at| if at % dim == i { 1.0f32 } else { 0.0 });
        let names: Vec<f32> = lengths.iter().flat_map(|length| (0..*length).flat_map(name)).collect();
        let names = TensorData::new(names, [rows, kv_heads, dim]);
        let names = Tensor::<B, 3>::from_data(names, (&device, DType::F32)).cast(k.dtype());
        let scale = (dim as f32).sqrt().recip();
        let p = kernels::attention(q, k, names, &pass.keys, scale).cast(DType::F32); // [T, nh, D]
        (p.clone() * p).sum_dim(1).reshape([rows, dim])
    }

    /// What the MLP gives before its output projection: `[T, intermediate]`.
    pub fn gate(&self, h: Tensor<B, 2>, perturb: Perturb) -> Tensor<B, 2> {
        let [gate, up] = forward([&self.gate_proj, &self.up_proj], h, perturb);
        kernels::silu_mul(gate, up)
    }

    pub fn linears(&self) -> [&Linear<B>; 7] {
        let Self { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = self;
        [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    }

    pub fn linears_mut(&mut self) -> [&mut Linear<B>; 7] {
        let Self { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = self;
        [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    }
}

impl<B: Kernels> RmsNorm<B> {
    pub fn load(checkpoint: &Checkpoint, name: &str, device: &B::Device) -> Result<Self> {
        let weight = vector(checkpoint, &format!("{name}.weight"), device, ComputeType::F32)?;
        Ok(Self { weight, eps: checkpoint.config().rms_norm_eps as f32 })
    }

    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        kernels::rms_norm(x, self.weight.clone(), self.eps)
    }
}

/// Token embeddings, read from the checkpoint file: f32 `[T, hidden]`.
pub fn embed<B: Backend>(
    checkpoint: &Checkpoint,
    tokens: &[u32],
    device: &B::Device,
) -> Result<Tensor<B, 2>> {
    let mut rows = Vec::with_capacity(tokens.len() * checkpoint.config().hidden_size);
    for tokens in tokens.chunks(EMBEDDED_ROWS) {
        rows.extend(checkpoint.rows("model.embed_tokens.weight", tokens)?);
        checkpoint.release();
    }
    let shape = [tokens.len(), checkpoint.config().hidden_size];
    Ok(Tensor::from_data(TensorData::new(rows, shape), (device, DType::F32)))
}

/// Position and visible keys (see [`KeyRanges`]) of every row of a sequence, `shift` rows further down.
pub fn visible(sequence: &Sequence, shift: usize) -> impl Iterator<Item = (usize, [usize; 4])> + '_ {
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

pub fn ints<B: Backend>(values: impl Iterator<Item = i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (device, DType::I32))
}
