//! One decoder block: its weights, and the parts of its forward pass; `backward` is its backward pass.

mod backward;
mod cache;

pub use backward::Ends;
pub use cache::{CachedRows, LayerCache};

use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::arch::{Activation, LinearRole, LinearSpec, ModelConfig, NormRole};
use crate::checkpoint::Checkpoint;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, Kernels, Scores};
use crate::model::linear::{Linear, Projections};
use crate::model::norm::{Norm, Norms, Residual};
use crate::model::pass::Pass;
use crate::model::rope::Rotation;
use crate::zo::direction::Signs;

/// A decoder block: attention and an MLP.
pub struct DecoderBlock<B: Backend> {
    pub attention_norms: Norms<B>,
    qkv: Projections<B, 3>,
    q_norm: Option<Norm<B>>,
    k_norm: Option<Norm<B>>,
    pub o_proj: Linear<B>,
    pub mlp_norms: Norms<B>,
    expand: Expand<B>,
    pub down_proj: Linear<B>,
    /// Whether attention is limited to a sliding window of keys.
    sliding: bool,
    /// Whether queries and keys are rotated.
    rotates: bool,
}

/// The input projections of an MLP, with its activation.
enum Expand<B: Backend> {
    Gated { gate_up: Projections<B, 2>, activation: Activation },
    Relu(Linear<B>),
}

impl<B: Kernels> DecoderBlock<B> {
    /// Loads block `index` onto a device.
    ///
    /// # Errors
    /// A tensor is missing or damaged.
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
            rotates: config.rotates(index),
        })
    }

    /// Runs the whole block on all rows: `[T, hidden]` → `[T, hidden]`.
    pub fn forward(&self, residual: Residual<B>, pass: &Pass<B>, config: &ModelConfig) -> Residual<B> {
        self.forward_rows(None, residual, pass, config, None)
    }

    /// Like [`Self::forward`], but returns only `rows`. Attention still runs on all rows, whose keys and values the
    /// others need; the rest of the block treats each row by itself, so that it can leave the others out.
    pub fn forward_rows(
        &self,
        rows: Option<&Tensor<B, 1, Int>>,
        residual: Residual<B>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<CachedRows<'_, B>>,
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

    /// Runs attention up to its output projection: `[T, hidden]` → `[T, heads · head_dim]`. With a cache, the queries
    /// attend to its keys.
    pub fn attend(
        &self,
        h: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        cache: Option<CachedRows<'_, B>>,
    ) -> Tensor<B, 2> {
        let rows = h.dims()[0];
        let [q, k, v] = self.attention_inputs(self.qkv.forward(h, pass.signs), pass, config);
        let [k, v] = match cache {
            Some(cache) => cache.write([k, v]),
            None => [k, v],
        };
        self.softmax(q, k, v, pass, config).reshape([rows, config.num_attention_heads * config.head_dim])
    }

    /// Sum over the heads of the squared attention probabilities that each query gives to the first keys of its
    /// sequence: f32 `[T, head_dim]`, a row per query, and a column `i` for the key at position `i` of the sequence.
    pub fn attention_received(
        &self,
        h: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        lengths: &[usize],
    ) -> Tensor<B, 2> {
        let rows = h.dims()[0];
        let (kv_heads, dim) = (config.num_key_value_heads, config.head_dim);
        let device = h.device();
        let [q, k, _] = self.attention_inputs(self.qkv.forward(h, pass.signs), pass, config);
        // With one-hot values, attention returns its own probabilities.
        let one_hot = |i: usize| (0..kv_heads * dim).map(move |at| if at % dim == i { 1.0f32 } else { 0.0 });
        let values: Vec<f32> = lengths.iter().flat_map(|length| (0..*length).flat_map(one_hot)).collect();
        let values = TensorData::new(values, [rows, kv_heads, dim]);
        let values = Tensor::<B, 3>::from_data(values, (&device, DType::F32)).cast(k.dtype());
        let p = self.softmax(q, k, values, pass, config).cast(DType::F32); // [T, nh, D]
        (p.clone() * p).sum_dim(1).reshape([rows, dim])
    }

    /// Runs the MLP up to its output projection: `[T, hidden]` → `[T, intermediate]`.
    pub fn expand(&self, h: Tensor<B, 2>, signs: Signs) -> Tensor<B, 2> {
        match &self.expand {
            Expand::Gated { gate_up, activation } => {
                let [gate, up] = gate_up.forward(h, signs);
                kernels::gate_mul(gate, up, *activation)
            }
            Expand::Relu(up) => relu(up.forward(h, signs)),
        }
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

    /// The norm of a role, if the model has it.
    pub fn norm_mut(&mut self, role: NormRole) -> Option<&mut Norm<B>> {
        let norm = match role {
            NormRole::AttentionInput => &mut self.attention_norms.input,
            NormRole::AttentionOutput => &mut self.attention_norms.output,
            NormRole::AttentionSum => &mut self.attention_norms.sum,
            NormRole::MlpInput => &mut self.mlp_norms.input,
            NormRole::MlpOutput => &mut self.mlp_norms.output,
            NormRole::MlpSum => &mut self.mlp_norms.sum,
            NormRole::Queries => &mut self.q_norm,
            NormRole::Keys => &mut self.k_norm,
        };
        norm.as_mut()
    }

    /// Queries `[T, heads, head_dim]`, keys and values `[T, kv_heads, head_dim]`, from the products of their projections,
    /// `[T, width]` each. Queries and keys are normed, where the model norms them, and rotated.
    fn attention_inputs(
        &self,
        products: [Tensor<B, 2>; 3],
        pass: &Pass<B>,
        config: &ModelConfig,
    ) -> [Tensor<B, 3>; 3] {
        let [q, k, v] = products;
        let normed = |x: Tensor<B, 2>, norm: &Option<Norm<B>>| match norm {
            Some(norm) => norm.groups(x),
            None => x,
        };
        let products = [normed(q, &self.q_norm), normed(k, &self.k_norm), v];
        let [q, k, v] = self.split_heads(products, config);
        let [q, k] = match self.rotation(pass) {
            Some(rotation) => rotation.apply([q, k]),
            None => [q, k],
        };
        [q, k, v]
    }

    /// The rotation of queries and keys, if they are rotated.
    fn rotation<'p>(&self, pass: &'p Pass<B>) -> Option<&'p Rotation<B>> {
        pass.attention_inputs(self.sliding).rotation.as_ref().filter(|_| self.rotates)
    }

    /// The products of the projections, `[T, width]` each, as heads: `[T, heads, head_dim]`.
    fn split_heads(&self, [q, k, v]: [Tensor<B, 2>; 3], config: &ModelConfig) -> [Tensor<B, 3>; 3] {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let split = |x: Tensor<B, 2>, heads| {
            let rows = x.dims()[0];
            x.reshape([rows, heads, config.head_dim])
        };
        [split(q, heads), split(k, kv_heads), split(v, kv_heads)]
    }

    fn softmax(
        &self,
        q: Tensor<B, 3>,
        k: Tensor<B, 3>,
        v: Tensor<B, 3>,
        pass: &Pass<B>,
        config: &ModelConfig,
    ) -> Tensor<B, 3> {
        let keys = &pass.attention_inputs(self.sliding).keys;
        kernels::attention(q, k, v, keys, self.scores(config)) // [T, nh, D]
    }

    fn scores(&self, config: &ModelConfig) -> Scores {
        let scale = (config.query_pre_attn_scalar as f32).sqrt().recip();
        Scores { scale, cap: config.attn_logit_softcapping }
    }
}
