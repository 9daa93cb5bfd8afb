//! One decoder block: its weights, and the steps of its pass.

use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::linear::{Linear, Projections};
use super::norm::{Norm, Norms, Residual};
use super::pass::Pass;
use crate::arch::Activation;
use crate::arch::{LinearRole, LinearSpec, ModelConfig, NormRole};
use crate::checkpoint::Checkpoint;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, Kernels, Scores};
use crate::zo::direction::Signs;

pub struct DecoderBlock<B: Backend> {
    pub attention_norms: Norms<B>,
    qkv: Projections<B, 3>,
    q_norm: Option<Norm<B>>,
    k_norm: Option<Norm<B>>,
    pub o_proj: Linear<B>,
    pub mlp_norms: Norms<B>,
    expand: Expand<B>,
    pub down_proj: Linear<B>,
    /// Whether it sees a window of the keys.
    sliding: bool,
}

/// The first linears of an MLP.
enum Expand<B: Backend> {
    Gated { gate_up: Projections<B, 2>, activation: Activation },
    Relu(Linear<B>),
}

/// Keys and values of the earlier tokens, `[S, kv_heads, head_dim]` each.
pub type LayerCache<B> = Option<(Tensor<B, 3>, Tensor<B, 3>)>;

impl<B: Kernels> DecoderBlock<B> {
    pub fn load(
        checkpoint: &Checkpoint,
        index: usize,
        trained: &[String],
        device: &B::Device,
        dtype: ComputeType,
    ) -> Result<Self> {
        let config = checkpoint.config();
        let (linears, norms) = (config.linears(index), config.norms(index));
        let optional = |role: LinearRole| {
            let spec = linears.iter().find(|linear| linear.role == role);
            let load =
                |spec: &LinearSpec| Linear::load(checkpoint, &spec.module, spec.bias, trained, device, dtype);
            spec.map(load).transpose()
        };
        let linear = |role: LinearRole| {
            let block = config.block_prefix(index);
            optional(role)?.ok_or_else(|| Error::internal(format!("{block} has no {role:?}")))
        };
        let norm = |role: NormRole| {
            let spec = norms.iter().find(|norm| norm.role == role);
            spec.map(|spec| Norm::load(checkpoint, &spec.module, device)).transpose()
        };
        let around = |[input, output, sum]: [NormRole; 3]| -> Result<Norms<B>> {
            Ok(Norms { input: norm(input)?, output: norm(output)?, sum: norm(sum)? })
        };
        let [heads, kv_heads] = [config.num_attention_heads, config.num_key_value_heads];
        Ok(Self {
            attention_norms: around([
                NormRole::AttentionInput,
                NormRole::AttentionOutput,
                NormRole::AttentionSum,
            ])?,
            qkv: match optional(LinearRole::QueryKeyValue)? {
                Some(fused) => {
                    Projections::Fused(fused, [heads, kv_heads, kv_heads].map(|n| n * config.head_dim))
                }
                None => Projections::Apart([
                    linear(LinearRole::Query)?,
                    linear(LinearRole::Key)?,
                    linear(LinearRole::Value)?,
                ]),
            },
            q_norm: norm(NormRole::Queries)?,
            k_norm: norm(NormRole::Keys)?,
            o_proj: linear(LinearRole::AttentionOutput)?,
            mlp_norms: around([NormRole::MlpInput, NormRole::MlpOutput, NormRole::MlpSum])?,
            expand: match (optional(LinearRole::GateUp)?, optional(LinearRole::Gate)?) {
                (Some(fused), _) => {
                    let gate_up = Projections::Fused(fused, [config.intermediate_size; 2]);
                    Expand::Gated { gate_up, activation: config.hidden_act }
                }
                (None, Some(gate)) => {
                    let gate_up = Projections::Apart([gate, linear(LinearRole::Up)?]);
                    Expand::Gated { gate_up, activation: config.hidden_act }
                }
                (None, None) => Expand::Relu(linear(LinearRole::Up)?),
            },
            down_proj: linear(LinearRole::MlpOutput)?,
            sliding: config.sliding_window.as_ref().is_some_and(|window| window.layers[index]),
        })
    }

    pub fn forward(
        &self,
        residual: Residual<B>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<&mut LayerCache<B>>,
    ) -> Residual<B> {
        self.forward_of(None, residual, pass, config, cache)
    }

    /// The same for some rows alone, where nobody asks for the others: all their keys and values count, but
    /// what follows attention does not mix rows.
    pub fn forward_of(
        &self,
        rows: Option<&Tensor<B, 1, Int>>,
        residual: Residual<B>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<&mut LayerCache<B>>,
    ) -> Residual<B> {
        let [x, h] = self.attention_norms.input(residual);
        let attended = self.attend(h, pass, config, cache);
        let [x, attended] = match rows {
            Some(rows) => [x, attended].map(|x| x.select(0, rows.clone())),
            None => [x, attended],
        };
        let residual = self.attention_norms.add(x, self.o_proj.forward(attended, pass.signs));
        let [x, h] = self.mlp_norms.input(residual);
        let expanded = self.expand(h, pass.signs);
        self.mlp_norms.add(x, self.down_proj.forward(expanded, pass.signs))
    }

    /// Attention before its output projection: `[T, heads · head_dim]`.
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

    /// The MLP before its output projection: `[T, intermediate]`.
    pub fn expand(&self, h: Tensor<B, 2>, signs: Signs) -> Tensor<B, 2> {
        match &self.expand {
            Expand::Gated { gate_up, activation } => {
                let [gate, up] = gate_up.forward(h, signs);
                kernels::gate_mul(gate, up, *activation)
            }
            Expand::Relu(up) => relu(up.forward(h, signs)),
        }
    }

    /// The most weights that a product here unpacks, those of one input together.
    pub fn unpacked(&self) -> usize {
        let Self { qkv, o_proj, expand, down_proj, .. } = self;
        let expand = match expand {
            Expand::Gated { gate_up, .. } => gate_up.linears(),
            Expand::Relu(up) => std::slice::from_ref(up),
        };
        let of = |linears: &[Linear<B>]| {
            linears.iter().filter_map(Linear::packed).map(DeviceWeight::elements).sum()
        };
        let products = [qkv.linears(), std::slice::from_ref(o_proj), expand, std::slice::from_ref(down_proj)];
        products.map(of).into_iter().max().unwrap_or(0)
    }

    /// The linears in the order of [`ModelConfig::linears`].
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        let Self { qkv, o_proj, expand, down_proj, .. } = self;
        let expand = match expand {
            Expand::Gated { gate_up, .. } => gate_up.linears(),
            Expand::Relu(up) => std::slice::from_ref(up),
        };
        qkv.linears().iter().chain([o_proj]).chain(expand).chain([down_proj])
    }

    /// The linears in the order of [`ModelConfig::linears`].
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<B>> {
        let Self { qkv, o_proj, expand, down_proj, .. } = self;
        let expand = match expand {
            Expand::Gated { gate_up, .. } => gate_up.linears_mut(),
            Expand::Relu(up) => std::slice::from_mut(up),
        };
        qkv.linears_mut().iter_mut().chain([o_proj]).chain(expand).chain([down_proj])
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
        let [q, k, v] = self.qkv.forward(h, pass.signs);
        let heads_of = |x: Tensor<B, 2>, heads, norm: &Option<Norm<B>>| {
            let x = x.reshape([rows, heads, dim]);
            match norm {
                Some(norm) => norm.heads(x),
                None => x,
            }
        };
        let qk = [heads_of(q, heads, &self.q_norm), heads_of(k, kv_heads, &self.k_norm)];
        let [q, k] = match &pass.view(self.sliding).rotation {
            Some(rotation) => rotation.apply(qk),
            None => qk,
        };
        [q, k, v.reshape([rows, kv_heads, dim])]
    }

    fn softmax(
        &self,
        q: Tensor<B, 3>,
        k: Tensor<B, 3>,
        v: Tensor<B, 3>,
        pass: &Pass<B>,
        config: &ModelConfig,
    ) -> Tensor<B, 3> {
        let scale = (config.query_pre_attn_scalar as f32).sqrt().recip();
        let scores = Scores { scale, cap: config.attn_logit_softcapping };
        kernels::attention(q, k, v, &pass.view(self.sliding).keys, scores) // [T, nh, D]
    }
}
