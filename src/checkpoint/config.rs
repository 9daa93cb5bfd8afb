//! What a model is, apart from its weights: the numbers every format states in its own words, and the
//! tensors that follow from them.

/// RoPE frequencies' correction for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear { factor: f32 },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_max_position_embeddings: usize,
    },
    /// Divisors per frequency, as GGUF's `rope_freqs.weight` stores them. Length: head_dim / 2.
    Factors(Vec<f32>),
}

/// The decoder's dimensions; field names are those of a Hugging Face `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `LlamaForCausalLM`; the only family so far.
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    pub tie_word_embeddings: bool,
    /// Biases on q, k, v and o.
    pub attention_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

/// The decoder block that a tensor is in, by its Hugging Face name.
pub fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

impl ModelConfig {
    /// Says what is wrong with the numbers, if anything: the rest of the program divides, multiplies
    /// and allocates by them without looking again.
    pub fn check(&self) -> Result<(), String> {
        let dimensions = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (name, value) in dimensions {
            // 2³¹ per dimension keeps every product of two of them, in bytes, inside 64 bits.
            if value == 0 || value > i32::MAX as usize {
                return Err(format!("{name} is {value}: expected 1 to {}", i32::MAX));
            }
        }
        let heads = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.0.is_multiple_of(heads.1) {
            return Err(format!(
                "{} attention heads cannot share {} key/value heads evenly",
                heads.0, heads.1
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {}: rotary embeddings need an even number", self.head_dim));
        }
        if self.head_dim.checked_mul(heads.0).is_none_or(|width| width > i32::MAX as usize) {
            return Err(format!("{} heads of {} overflow", heads.0, self.head_dim));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.rms_norm_eps) || !positive(self.rope_theta) {
            return Err(format!(
                "rms_norm_eps {} and rope_theta {} must be positive",
                self.rms_norm_eps, self.rope_theta
            ));
        }
        self.check_rope_scaling()
    }

    /// Hugging Face names of the linears inside the decoder blocks, byte-sorted.
    pub fn block_linears(&self) -> Vec<String> {
        let mut names: Vec<String> = (0..self.num_hidden_layers)
            .flat_map(|layer| self.block(layer))
            .filter(|(name, shape)| shape.len() == 2 && name.ends_with(".weight"))
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        names
    }

    /// Every tensor the model needs: Hugging Face name and shape, `[out, in]` for linears.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let hidden = self.hidden_size;
        let table = vec![self.vocab_size, hidden];
        let head = (!self.tie_word_embeddings).then(|| ("lm_head.weight".to_owned(), table.clone()));
        let first = ("model.embed_tokens.weight".to_owned(), table);
        let last = ("model.norm.weight".to_owned(), vec![hidden]);
        let blocks = (0..self.num_hidden_layers).flat_map(|layer| self.block(layer));
        [first, last].into_iter().chain(head).chain(blocks)
    }

    fn block(&self, layer: usize) -> impl Iterator<Item = (String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let (attention, mlp) = (self.attention_bias, self.mlp_bias);
        let linears = [
            ("self_attn.q_proj", q, hidden, attention),
            ("self_attn.k_proj", kv, hidden, attention),
            ("self_attn.v_proj", kv, hidden, attention),
            ("self_attn.o_proj", hidden, q, attention),
            ("mlp.gate_proj", inner, hidden, mlp),
            ("mlp.up_proj", inner, hidden, mlp),
            ("mlp.down_proj", hidden, inner, mlp),
        ];
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let linears = linears.into_iter().flat_map(move |(name, out, input, bias)| {
            let weight = (format!("model.layers.{layer}.{name}.weight"), vec![out, input]);
            let bias = bias.then(|| (format!("model.layers.{layer}.{name}.bias"), vec![out]));
            std::iter::once(weight).chain(bias)
        });
        let norms = norms.map(|name| (format!("model.layers.{layer}.{name}.weight"), vec![hidden]));
        linears.chain(norms)
    }

    fn check_rope_scaling(&self) -> Result<(), String> {
        let positive = |value: f32| value.is_finite() && value > 0.0;
        let fine = match &self.rope_scaling {
            None => true,
            Some(RopeScaling::Linear { factor }) => positive(*factor),
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. }) => {
                // The ramp divides by their difference.
                positive(*factor)
                    && positive(*low_freq_factor)
                    && positive(*high_freq_factor)
                    && high_freq_factor > low_freq_factor
            }
            Some(RopeScaling::Factors(factors)) => {
                factors.len() == self.head_dim / 2 && factors.iter().all(|f| positive(*f))
            }
        };
        match fine {
            true => Ok(()),
            false => Err(format!("rope scaling with values out of range: {:?}", self.rope_scaling)),
        }
    }
}
