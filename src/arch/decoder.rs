//! The dimensions and settings of a decoder, which every format states in its own words. `tensors` says which tensors
//! follow from them.

use super::family::{BlockKind, Family};
use super::rope::{RopeScaling, frequencies};

/// The most layers that a file may claim, more than any model has, so that lists by layer stay small.
pub const MOST_LAYERS: usize = 1 << 16;

/// The activation of a gated MLP, x · σ(v).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// v = x
    Silu,
    /// GELU as tanh approximates it: v = √(8/π) · (x + 0.044715·x³)
    GeluTanh,
}

/// Sliding-window attention: in some layers a query sees only the keys close to it.
#[derive(Debug, Clone, PartialEq)]
pub struct SlidingWindow {
    /// The number of keys that a query sees, its own included.
    pub length: usize,
    /// Whether each layer has it.
    pub layers: Vec<bool>,
    /// The base of these layers' rotation, which is not scaled, where it differs from the other layers'.
    pub rope_theta: Option<f64>,
}

/// The decoder's dimensions and settings. Fields have the names of a Hugging Face `config.json` where it has them.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    /// The activation of the MLP's gate.
    pub hidden_act: Activation,
    /// The epsilon of all norms, LayerNorms included.
    pub rms_norm_eps: f64,
    /// Added to the weights of norms when they are loaded: Gemma stores them less 1.
    pub norm_offset: f32,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    /// The width of the token embeddings: `hidden_size`, but for one OPT model.
    pub word_embed_proj_dim: usize,
    /// The factor of the token embeddings.
    pub embedding_scale: f32,
    pub tie_word_embeddings: bool,
    /// The number of features of each head that are rotated, which are the first ones.
    pub rotary_dim: usize,
    pub block: BlockKind,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    pub o_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Whether each head's queries and keys go through a norm before they are rotated.
    pub qk_norm: bool,
    /// Products of queries and keys are divided by its square root: `head_dim`, but for some Gemmas.
    pub query_pre_attn_scalar: f64,
    /// The cap of attention scores, `cap · tanh(x / cap)`.
    pub attn_logit_softcapping: Option<f32>,
    /// The cap of the logits, likewise.
    pub final_logit_softcapping: Option<f32>,
    pub sliding_window: Option<SlidingWindow>,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Checks the numbers: the rest of the program divides, multiplies and allocates by them without checking again.
    ///
    /// # Errors
    /// A number that is out of range, or contradicts another.
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
            ("word_embed_proj_dim", self.word_embed_proj_dim),
        ];
        for (name, value) in dimensions {
            // 2³¹ per dimension keeps every product of two of them, in bytes, inside 64 bits.
            if value == 0 || value > i32::MAX as usize {
                return Err(format!("{name} is {value}: expected 1 to {}", i32::MAX));
            }
        }
        if self.num_hidden_layers > MOST_LAYERS {
            return Err(format!(
                "num_hidden_layers is {}: expected at most {MOST_LAYERS}",
                self.num_hidden_layers
            ));
        }
        if self.sliding_window.as_ref().is_some_and(|window| window.length == 0) {
            return Err("sliding_window is 0".into());
        }
        let heads = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.0.is_multiple_of(heads.1) {
            return Err(format!(
                "{} attention heads cannot share {} key/value heads evenly",
                heads.0, heads.1
            ));
        }
        let rotates = !matches!(self.block, BlockKind::Opt { .. });
        if !self.rotary_dim.is_multiple_of(2)
            || self.rotary_dim > self.head_dim
            || rotates && self.rotary_dim == 0
        {
            let (rotary, head) = (self.rotary_dim, self.head_dim);
            return Err(format!("{rotary} of {head} features are rotated: expected an even number of them"));
        }
        if self.head_dim.checked_mul(heads.0).is_none_or(|width| width > i32::MAX as usize) {
            return Err(format!("{} heads of {} overflow", heads.0, self.head_dim));
        }
        let caps = [self.attn_logit_softcapping, self.final_logit_softcapping].into_iter().flatten();
        let local_theta = self.sliding_window.as_ref().and_then(|window| window.rope_theta);
        let numbers = [self.rms_norm_eps, self.rope_theta, self.query_pre_attn_scalar];
        let numbers = numbers.into_iter().chain(local_theta).chain(caps.map(f64::from));
        if let Some(wrong) = numbers.into_iter().find(|value| !value.is_finite() || *value <= 0.0) {
            return Err(format!(
                "{wrong} among eps, rope_theta, query scalar and soft caps: expected positive numbers"
            ));
        }
        self.check_rope_scaling()
    }

    /// The divisor of each frequency of the rotary embeddings: `[rotary_dim / 2]`.
    pub fn rope_divisors(&self) -> Vec<f32> {
        let divisor = |(i, frequency)| {
            self.rope_scaling.as_ref().map_or(1.0, |scaling| scaling.divisor(frequency, i) as f32)
        };
        frequencies(self.rope_theta, self.rotary_dim).enumerate().map(divisor).collect()
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
                factors.len() == self.rotary_dim / 2 && factors.iter().all(|f| positive(*f))
            }
            Some(RopeScaling::LongRope { short_factor, attention_factor, .. }) => {
                short_factor.len() == self.rotary_dim / 2
                    && short_factor.iter().all(|f| positive(*f))
                    && positive(*attention_factor)
            }
        };
        match fine {
            true => Ok(()),
            false => Err(format!("rope scaling with values out of range: {:?}", self.rope_scaling)),
        }
    }
}
