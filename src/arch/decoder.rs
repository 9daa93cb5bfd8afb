//! The dimensions and settings of a decoder, which every format states in its own words. `tensors` says which tensors
//! follow from them.

use super::family::{BlockKind, Family, QkNorm};
use super::rope::{RopeScaling, Yarn};

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
    /// The epsilon of all norms, LayerNorms included. See [`Self::norm_eps`].
    pub rms_norm_eps: f64,
    /// Added to the weights of norms when they are loaded: Gemma stores them less 1.
    pub norm_offset: f32,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    /// The width of the token embeddings: `hidden_size`, but for one OPT model.
    pub word_embed_proj_dim: usize,
    /// The factor of the token embeddings. See [`Self::input_scale`].
    pub embedding_scale: f32,
    /// The factor of what attention and the MLP add to the residual stream.
    pub residual_multiplier: f32,
    /// The logits are divided by it.
    pub logits_scaling: f32,
    pub tie_word_embeddings: bool,
    /// The number of features of each head that are rotated, which are the first ones.
    pub rotary_dim: usize,
    /// Whether each layer rotates queries and keys; `None` where all do, or none.
    pub rotated_layers: Option<Vec<bool>>,
    pub block: BlockKind,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    pub o_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// The norms of queries and keys, if there are any.
    pub qk_norm: Option<QkNorm>,
    /// Products of queries and keys are divided by its square root: `head_dim`, but for some Gemmas and for Granite.
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
        let scales = [self.embedding_scale, self.residual_multiplier, self.logits_scaling];
        let numbers = numbers.into_iter().chain(local_theta).chain(caps.chain(scales).map(f64::from));
        if let Some(wrong) = numbers.into_iter().find(|value| !value.is_finite() || *value <= 0.0) {
            return Err(format!(
                "{wrong} among eps, rope_theta, query scalar, soft caps and multipliers: expected positive numbers"
            ));
        }
        let lists = [
            ("rotated layers", self.rotated_layers.as_ref()),
            ("windows", self.sliding_window.as_ref().map(|window| &window.layers)),
        ];
        for (what, list) in lists {
            if let Some(list) = list.filter(|list| list.len() != self.num_hidden_layers) {
                return Err(format!("{} {what} for {} layers", list.len(), self.num_hidden_layers));
            }
        }
        self.check_rope_scaling()
    }

    /// The factor of the token embeddings in a pass.
    ///
    /// The residual stream is computed divided by `residual_multiplier`, so that blocks add their results as they are:
    /// x + m · f(norm(x)) = m · (x/m + f(norm(x))). A norm gives the same for x/m as for x if its epsilon is divided by m².
    pub fn input_scale(&self) -> f32 {
        self.embedding_scale / self.residual_multiplier
    }

    /// The epsilon of norms in a pass: see [`Self::input_scale`].
    pub fn norm_eps(&self) -> f32 {
        (self.rms_norm_eps / f64::from(self.residual_multiplier).powi(2)) as f32
    }

    /// The same settings with the numbers of `other` where the two differ by no more than rounding to f32.
    pub fn rounded_as(mut self, other: &Self) -> Self {
        let round = |own: &mut f64, other: f64| {
            if (*own - other).abs() <= 1e-6 * other.abs() {
                *own = other;
            }
        };
        round(&mut self.rms_norm_eps, other.rms_norm_eps);
        round(&mut self.rope_theta, other.rope_theta);
        round(&mut self.query_pre_attn_scalar, other.query_pre_attn_scalar);
        if let (Some(own), Some(other)) = (&mut self.sliding_window, &other.sliding_window)
            && let (Some(own), Some(other)) = (&mut own.rope_theta, other.rope_theta)
        {
            round(own, other);
        }
        if let (Some(RopeScaling::Yarn(own)), Some(RopeScaling::Yarn(other))) =
            (&mut self.rope_scaling, &other.rope_scaling)
        {
            let mut factor = own.attention_factor.into();
            round(&mut factor, other.attention_factor.into());
            own.attention_factor = factor as f32;
        }
        self
    }

    /// Whether a layer rotates queries and keys.
    pub fn rotates(&self, layer: usize) -> bool {
        self.rotary_dim > 0 && self.rotated_layers.as_ref().is_none_or(|rotated| rotated[layer])
    }

    /// The divisor of each frequency of the rotary embeddings: `[rotary_dim / 2]`.
    pub fn rope_divisors(&self) -> Vec<f32> {
        match &self.rope_scaling {
            Some(scaling) => {
                scaling.divisors(self.rope_theta, self.rotary_dim).iter().map(|d| *d as f32).collect()
            }
            None => vec![1.0; self.rotary_dim / 2],
        }
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
            Some(RopeScaling::Yarn(Yarn { factor, beta_fast, beta_slow, attention_factor, .. })) => {
                // Fewer turns belong to a lower frequency.
                [*factor, *beta_slow, *attention_factor].into_iter().all(positive)
                    && beta_fast.is_finite()
                    && beta_fast > beta_slow
                    && self.rope_theta > 1.0
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
