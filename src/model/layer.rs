//! One decoder block: its weights, and the steps of its pass.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use super::linear::{Linear, Projections};
use super::norm::Norm;
use super::pass::Pass;
use crate::checkpoint::{Checkpoint, LinearRole, ModelConfig, NormRole};
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, Kernels};
use crate::zo::perturbation::Perturb;

/// Rows of the embedding table that are read before its pages are given back: the system maps sixteen
/// pages around each.
const EMBEDDED_ROWS: usize = 64;

pub struct Layer<B: Backend> {
    pub attention_norm: Norm<B>,
    qkv: Projections<B, 3>,
    q_norm: Option<Norm<B>>,
    k_norm: Option<Norm<B>>,
    pub o_proj: Linear<B>,
    pub mlp_norm: Norm<B>,
    gate_up: Projections<B, 2>,
    pub down_proj: Linear<B>,
    /// Whether it sees a window of the keys.
    sliding: bool,
}

/// Keys and values of the tokens so far, `[S, kv_heads, head_dim]` each.
pub type LayerCache<B> = Option<(Tensor<B, 3>, Tensor<B, 3>)>;

impl<B: Kernels> Layer<B> {
    pub fn load(
        checkpoint: &Checkpoint,
        index: usize,
        trained: &[String],
        device: &B::Device,
        dtype: ComputeType,
    ) -> Result<Self> {
        let config = checkpoint.config();
        let (linears, norms) = (config.linears(index), config.norms(index));
        let linear = |role: LinearRole| {
            let spec = linears.iter().find(|linear| linear.role == role);
            let missing =
                || Error::tensor(checkpoint.path(), config.block_prefix(index), format!("has no {role:?}"));
            let spec = spec.ok_or_else(missing)?;
            Linear::load(checkpoint, &spec.module, spec.bias, trained, device, dtype)
        };
        let norm = |role: NormRole| {
            let spec = norms.iter().find(|norm| norm.role == role);
            spec.map(|spec| Norm::load(checkpoint, &spec.module, device)).transpose()
        };
        let input = |role: NormRole| {
            let missing =
                || Error::tensor(checkpoint.path(), config.block_prefix(index), format!("has no {role:?}"));
            norm(role)?.ok_or_else(missing)
        };
        Ok(Self {
            attention_norm: input(NormRole::AttentionInput)?,
            qkv: Projections::new([
                linear(LinearRole::Query)?,
                linear(LinearRole::Key)?,
                linear(LinearRole::Value)?,
            ]),
            q_norm: norm(NormRole::Queries)?,
            k_norm: norm(NormRole::Keys)?,
            o_proj: linear(LinearRole::AttentionOutput)?,
            mlp_norm: input(NormRole::MlpInput)?,
            gate_up: Projections::new([linear(LinearRole::Gate)?, linear(LinearRole::Up)?]),
            down_proj: linear(LinearRole::MlpOutput)?,
            sliding: config.sliding_window.as_ref().is_some_and(|window| window.layers[index]),
        })
    }

    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 2> {
        let attended = self.attend(self.attention_norm.forward(x.clone()), pass, config, cache);
        let x = x + self.o_proj.forward(attended, pass.perturb);
        let gated = self.gate(self.mlp_norm.forward(x.clone()), pass.perturb);
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
        let [q, k, v] = self.queries_keys_values(h, pass, config);
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
        self.softmax(q, k, v, pass, config).reshape([rows, config.num_attention_heads * config.head_dim])
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
        let (kv_heads, dim) = (config.num_key_value_heads, config.head_dim);
        let device = h.device();
        let [q, k, _] = self.queries_keys_values(h, pass, config);
        // Values that name their keys make attention give its own probabilities.
        let name = |i: usize| (0..kv_heads * dim).map(move |at| if at % dim == i { 1.0f32 } else { 0.0 });
        let names: Vec<f32> = lengths.iter().flat_map(|length| (0..*length).flat_map(name)).collect();
        let names = TensorData::new(names, [rows, kv_heads, dim]);
        let names = Tensor::<B, 3>::from_data(names, (&device, DType::F32)).cast(k.dtype());
        let p = self.softmax(q, k, names, pass, config).cast(DType::F32); // [T, nh, D]
        (p.clone() * p).sum_dim(1).reshape([rows, dim])
    }

    /// What the MLP gives before its output projection: `[T, intermediate]`.
    pub fn gate(&self, h: Tensor<B, 2>, perturb: Perturb) -> Tensor<B, 2> {
        let [gate, up] = self.gate_up.forward(h, perturb);
        kernels::silu_mul(gate, up)
    }

    /// In the order of [`ModelConfig::linears`].
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        let Self { qkv, o_proj, gate_up, down_proj, .. } = self;
        qkv.linears().iter().chain([o_proj]).chain(gate_up.linears()).chain([down_proj])
    }

    /// In the order of [`ModelConfig::linears`].
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<B>> {
        let Self { qkv, o_proj, gate_up, down_proj, .. } = self;
        qkv.linears_mut().iter_mut().chain([o_proj]).chain(gate_up.linears_mut()).chain([down_proj])
    }

    /// `[T, heads, head_dim]`, `[T, kv_heads, head_dim]` twice; queries and keys rotated.
    fn queries_keys_values(
        &self,
        h: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
    ) -> [Tensor<B, 3>; 3] {
        let rows = h.dims()[0];
        let (heads, kv_heads, dim) =
            (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let [q, k, v] = self.qkv.forward(h, pass.perturb);
        let turn = |x: Tensor<B, 2>, heads, norm: &Option<Norm<B>>| {
            let x = x.reshape([rows, heads, dim]);
            let x = match norm {
                Some(norm) => norm.heads(x),
                None => x,
            };
            pass.view(self.sliding).rotation.apply(x)
        };
        [turn(q, heads, &self.q_norm), turn(k, kv_heads, &self.k_norm), v.reshape([rows, kv_heads, dim])]
    }

    fn softmax(
        &self,
        q: Tensor<B, 3>,
        k: Tensor<B, 3>,
        v: Tensor<B, 3>,
        pass: &Pass<B>,
        config: &ModelConfig,
    ) -> Tensor<B, 3> {
        let scale = (config.head_dim as f32).sqrt().recip();
        kernels::attention(q, k, v, &pass.view(self.sliding).keys, scale) // [T, nh, D]
    }
}

/// Token embeddings, read from the checkpoint file: f32 `[T, hidden]`.
pub fn embed<B: Backend>(
    checkpoint: &Checkpoint,
    tokens: &[u32],
    device: &B::Device,
) -> Result<Tensor<B, 2>> {
    let table = format!("{}.weight", checkpoint.config().embed_tokens());
    let mut rows = Vec::with_capacity(tokens.len() * checkpoint.config().hidden_size);
    for tokens in tokens.chunks(EMBEDDED_ROWS) {
        rows.extend(checkpoint.rows(&table, tokens)?);
        checkpoint.release();
    }
    let shape = [tokens.len(), checkpoint.config().hidden_size];
    Ok(Tensor::from_data(TensorData::new(rows, shape), (device, DType::F32)))
}
