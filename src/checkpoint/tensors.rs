//! The tensors that follow from a model's config: their Hugging Face names and shapes, and what each is for.

use super::config::ModelConfig;

const BLOCKS: &str = "model.layers.";
const EMBED_TOKENS: &str = "model.embed_tokens";

/// What a linear of a decoder block gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearRole {
    Query,
    Key,
    Value,
    /// What is added to the residual after attention.
    AttentionOutput,
    Gate,
    Up,
    /// What is added to the residual after the MLP.
    MlpOutput,
}

/// What a norm of a decoder block is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormRole {
    AttentionInput,
    MlpInput,
    /// Each head's queries.
    Queries,
    /// Each head's keys.
    Keys,
}

/// A linear and its tensors, `{module}.weight` and perhaps `{module}.bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearSpec {
    pub role: LinearRole,
    pub module: String,
    /// `[out, in]`
    pub shape: [usize; 2],
    pub bias: bool,
}

/// A norm and its tensor, `{module}.weight`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormSpec {
    pub role: NormRole,
    pub module: String,
    pub width: usize,
}

/// The decoder block that a tensor is in, by its Hugging Face name.
pub fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix(BLOCKS)?.split('.').next()?.parse().ok()
}

impl LinearSpec {
    pub fn weight(&self) -> String {
        format!("{}.weight", self.module)
    }
}

impl ModelConfig {
    /// What the names of a block's tensors begin with.
    pub fn block_prefix(&self, layer: usize) -> String {
        format!("{BLOCKS}{layer}.")
    }

    /// The module whose rows are the tokens.
    pub fn embed_tokens(&self) -> &'static str {
        EMBED_TOKENS
    }

    /// The module that gives the logits.
    pub fn head(&self) -> &'static str {
        if self.tie_word_embeddings { EMBED_TOKENS } else { "lm_head" }
    }

    /// The module of the norm before the head.
    pub fn final_norm(&self) -> &'static str {
        "model.norm"
    }

    /// A block's linears, in the order in which a pass comes to them.
    pub fn linears(&self, layer: usize) -> Vec<LinearSpec> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        [
            (LinearRole::Query, "self_attn.q_proj", [q, hidden], self.qkv_bias),
            (LinearRole::Key, "self_attn.k_proj", [kv, hidden], self.qkv_bias),
            (LinearRole::Value, "self_attn.v_proj", [kv, hidden], self.qkv_bias),
            (LinearRole::AttentionOutput, "self_attn.o_proj", [hidden, q], self.o_bias),
            (LinearRole::Gate, "mlp.gate_proj", [inner, hidden], self.mlp_bias),
            (LinearRole::Up, "mlp.up_proj", [inner, hidden], self.mlp_bias),
            (LinearRole::MlpOutput, "mlp.down_proj", [hidden, inner], self.mlp_bias),
        ]
        .map(|(role, name, shape, bias)| {
            let module = self.block_prefix(layer) + name;
            LinearSpec { role, module, shape, bias }
        })
        .into()
    }

    /// A block's norms.
    pub fn norms(&self, layer: usize) -> Vec<NormSpec> {
        let hidden = self.hidden_size;
        let mut norms = vec![
            (NormRole::AttentionInput, "input_layernorm", hidden),
            (NormRole::MlpInput, "post_attention_layernorm", hidden),
        ];
        if self.qk_norm {
            norms.push((NormRole::Queries, "self_attn.q_norm", self.head_dim));
            norms.push((NormRole::Keys, "self_attn.k_norm", self.head_dim));
        }
        let spec = |(role, name, width)| {
            let module = self.block_prefix(layer) + name;
            NormSpec { role, module, width }
        };
        norms.into_iter().map(spec).collect()
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
        let table = vec![self.vocab_size, self.hidden_size];
        let head = (!self.tie_word_embeddings).then(|| (format!("{}.weight", self.head()), table.clone()));
        let first = (format!("{EMBED_TOKENS}.weight"), table);
        let last = (format!("{}.weight", self.final_norm()), vec![self.hidden_size]);
        let blocks = (0..self.num_hidden_layers).flat_map(|layer| self.block(layer));
        [first, last].into_iter().chain(head).chain(blocks)
    }

    fn block(&self, layer: usize) -> impl Iterator<Item = (String, Vec<usize>)> {
        let linears = self.linears(layer).into_iter().flat_map(|linear| {
            let bias = linear.bias.then(|| (format!("{}.bias", linear.module), vec![linear.shape[0]]));
            std::iter::once((linear.weight(), linear.shape.to_vec())).chain(bias)
        });
        let norms = self.norms(layer).into_iter();
        linears.chain(norms.map(|norm| (format!("{}.weight", norm.module), vec![norm.width])))
    }
}
