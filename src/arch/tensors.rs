//! The tensors that follow from a model's config: their Hugging Face names, shapes and roles.

use super::decoder::ModelConfig;
use super::family::{BlockKind, QkNorm};

/// The row of OPT's position table that belongs to position 0.
pub const POSITIONS_OFFSET: usize = 2;

/// The role of a linear in its decoder block: its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearRole {
    Query,
    Key,
    Value,
    /// Query, key and value, concatenated.
    QueryKeyValue,
    /// The sum added to the residual after attention.
    AttentionOutput,
    Gate,
    Up,
    /// Gate and up, concatenated.
    GateUp,
    /// The sum added to the residual after the MLP.
    MlpOutput,
}

/// The role of a norm in its decoder block: its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormRole {
    AttentionInput,
    AttentionOutput,
    /// The residual after attention.
    AttentionSum,
    MlpInput,
    MlpOutput,
    /// The residual after the MLP.
    MlpSum,
    /// Queries.
    Queries,
    /// Keys.
    Keys,
}

/// A linear, whose tensors are `{module}.weight` and, if it has one, `{module}.bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearSpec {
    pub role: LinearRole,
    pub module: String,
    /// `[out, in]`
    pub shape: [usize; 2],
    pub bias: bool,
}

/// A norm, whose tensors are `{module}.weight` and, for a LayerNorm, `{module}.bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormSpec {
    pub role: NormRole,
    pub module: String,
    pub width: usize,
}

const LLAMA_BLOCKS: &str = "model.layers.";
const OPT_BLOCKS: &str = "model.decoder.layers.";

/// The index of the decoder block that a tensor belongs to, by its Hugging Face name.
pub fn block_of(name: &str) -> Option<usize> {
    let within = name.strip_prefix(LLAMA_BLOCKS).or_else(|| name.strip_prefix(OPT_BLOCKS));
    within?.split('.').next()?.parse().ok()
}

impl LinearSpec {
    pub fn weight(&self) -> String {
        format!("{}.weight", self.module)
    }
}

impl ModelConfig {
    /// The prefix of the names of a block's tensors.
    pub fn block_prefix(&self, layer: usize) -> String {
        match self.block {
            BlockKind::Opt { .. } => format!("{OPT_BLOCKS}{layer}."),
            _ => format!("{LLAMA_BLOCKS}{layer}."),
        }
    }

    /// The module of the token embeddings.
    pub fn embed_tokens(&self) -> &'static str {
        match self.block {
            BlockKind::Opt { .. } => "model.decoder.embed_tokens",
            _ => "model.embed_tokens",
        }
    }

    /// The module of the learned position embeddings, whose first position is row [`POSITIONS_OFFSET`]; `None` where
    /// positions are rotations.
    pub fn embed_positions(&self) -> Option<&'static str> {
        matches!(self.block, BlockKind::Opt { .. }).then_some("model.decoder.embed_positions")
    }

    /// The modules of the linears from the embeddings' width to the hidden size and back, where the two differ.
    pub fn projections(&self) -> Option<[&'static str; 2]> {
        let needed = self.word_embed_proj_dim != self.hidden_size;
        needed.then_some(["model.decoder.project_in", "model.decoder.project_out"])
    }

    /// The module of the norm before the head.
    pub fn final_norm(&self) -> Option<&'static str> {
        match self.block {
            BlockKind::Opt { final_norm, .. } => final_norm.then_some("model.decoder.final_layer_norm"),
            _ => Some("model.norm"),
        }
    }

    /// The module that computes the logits.
    pub fn head(&self) -> &'static str {
        if self.tie_word_embeddings { self.embed_tokens() } else { "lm_head" }
    }

    /// Whether norms are LayerNorms, with biases.
    pub fn layer_norms(&self) -> bool {
        matches!(self.block, BlockKind::Opt { .. })
    }

    /// A block's linears, in the order of a forward pass.
    pub fn linears(&self, layer: usize) -> Vec<LinearSpec> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let (qkv_bias, o_bias, mlp_bias) = (self.qkv_bias, self.o_bias, self.mlp_bias);
        let apart = [
            (LinearRole::Query, "self_attn.q_proj", [q, hidden], qkv_bias),
            (LinearRole::Key, "self_attn.k_proj", [kv, hidden], qkv_bias),
            (LinearRole::Value, "self_attn.v_proj", [kv, hidden], qkv_bias),
        ];
        let mut linears = match self.block {
            BlockKind::Phi3 => {
                vec![(LinearRole::QueryKeyValue, "self_attn.qkv_proj", [q + 2 * kv, hidden], qkv_bias)]
            }
            _ => apart.to_vec(),
        };
        linears.extend(match self.block {
            BlockKind::Llama | BlockKind::Gemma2 | BlockKind::Olmo2 => vec![
                (LinearRole::AttentionOutput, "self_attn.o_proj", [hidden, q], o_bias),
                (LinearRole::Gate, "mlp.gate_proj", [inner, hidden], mlp_bias),
                (LinearRole::Up, "mlp.up_proj", [inner, hidden], mlp_bias),
                (LinearRole::MlpOutput, "mlp.down_proj", [hidden, inner], mlp_bias),
            ],
            BlockKind::Phi3 => vec![
                (LinearRole::AttentionOutput, "self_attn.o_proj", [hidden, q], o_bias),
                (LinearRole::GateUp, "mlp.gate_up_proj", [2 * inner, hidden], mlp_bias),
                (LinearRole::MlpOutput, "mlp.down_proj", [hidden, inner], mlp_bias),
            ],
            BlockKind::Opt { .. } => vec![
                (LinearRole::AttentionOutput, "self_attn.out_proj", [hidden, q], o_bias),
                (LinearRole::Up, "fc1", [inner, hidden], mlp_bias),
                (LinearRole::MlpOutput, "fc2", [hidden, inner], mlp_bias),
            ],
        });
        let spec = |(role, name, shape, bias)| {
            let module = self.block_prefix(layer) + name;
            LinearSpec { role, module, shape, bias }
        };
        linears.into_iter().map(spec).collect()
    }

    /// A block's norms.
    pub fn norms(&self, layer: usize) -> Vec<NormSpec> {
        let hidden = self.hidden_size;
        let mut norms = match self.block {
            BlockKind::Llama | BlockKind::Phi3 => vec![
                (NormRole::AttentionInput, "input_layernorm", hidden),
                (NormRole::MlpInput, "post_attention_layernorm", hidden),
            ],
            BlockKind::Gemma2 => vec![
                (NormRole::AttentionInput, "input_layernorm", hidden),
                (NormRole::AttentionOutput, "post_attention_layernorm", hidden),
                (NormRole::MlpInput, "pre_feedforward_layernorm", hidden),
                (NormRole::MlpOutput, "post_feedforward_layernorm", hidden),
            ],
            BlockKind::Olmo2 => vec![
                (NormRole::AttentionOutput, "post_attention_layernorm", hidden),
                (NormRole::MlpOutput, "post_feedforward_layernorm", hidden),
            ],
            BlockKind::Opt { norm_before, .. } => {
                let [attention, mlp] = match norm_before {
                    true => [NormRole::AttentionInput, NormRole::MlpInput],
                    false => [NormRole::AttentionSum, NormRole::MlpSum],
                };
                vec![(attention, "self_attn_layer_norm", hidden), (mlp, "final_layer_norm", hidden)]
            }
        };
        if let Some(kind) = self.qk_norm {
            let width = |heads: usize| match kind {
                QkNorm::Heads => self.head_dim,
                QkNorm::Whole => heads * self.head_dim,
            };
            norms.push((NormRole::Queries, "self_attn.q_norm", width(self.num_attention_heads)));
            norms.push((NormRole::Keys, "self_attn.k_norm", width(self.num_key_value_heads)));
        }
        let spec = |(role, name, width)| {
            let module = self.block_prefix(layer) + name;
            NormSpec { role, module, width }
        };
        norms.into_iter().map(spec).collect()
    }

    /// Values that a token has as keys and values, in all layers together.
    pub fn cached_values(&self) -> usize {
        2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim
    }

    /// Hugging Face names of the linears inside the decoder blocks, byte-sorted.
    pub fn block_linears(&self) -> Vec<String> {
        let linears = (0..self.num_hidden_layers).flat_map(|layer| self.linears(layer));
        let mut names: Vec<String> = linears.map(|linear| linear.weight()).collect();
        names.sort_unstable();
        names
    }

    /// Every tensor the model needs: Hugging Face name and shape, `[out, in]` for linears.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let (width, hidden) = (self.word_embed_proj_dim, self.hidden_size);
        let weight = |module: &str| format!("{module}.weight");
        let mut outer = vec![(weight(self.embed_tokens()), vec![self.vocab_size, width])];
        outer.extend(
            self.embed_positions().map(|module| {
                (weight(module), vec![self.max_position_embeddings + POSITIONS_OFFSET, hidden])
            }),
        );
        if let Some([project_in, project_out]) = self.projections() {
            outer.push((weight(project_in), vec![hidden, width]));
            outer.push((weight(project_out), vec![width, hidden]));
        }
        outer.extend(self.final_norm().into_iter().flat_map(|module| self.norm_tensors(module, hidden)));
        if !self.tie_word_embeddings {
            outer.push((weight(self.head()), vec![self.vocab_size, width]));
        }
        outer.into_iter().chain((0..self.num_hidden_layers).flat_map(|layer| self.block_tensors(layer)))
    }

    fn block_tensors(&self, layer: usize) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let linears = self.linears(layer).into_iter().flat_map(|linear| {
            let bias = linear.bias.then(|| (format!("{}.bias", linear.module), vec![linear.shape[0]]));
            std::iter::once((linear.weight(), linear.shape.to_vec())).chain(bias)
        });
        let norms = self.norms(layer).into_iter();
        linears.chain(norms.flat_map(|norm| self.norm_tensors(&norm.module, norm.width)))
    }

    fn norm_tensors(&self, module: &str, width: usize) -> Vec<(String, Vec<usize>)> {
        let kinds: &[&str] = if self.layer_norms() { &["weight", "bias"] } else { &["weight"] };
        kinds.iter().map(|kind| (format!("{module}.{kind}"), vec![width])).collect()
    }
}
