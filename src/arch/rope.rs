//! How the frequencies of rotary position embeddings (RoPE) are scaled for longer contexts.

use std::f64::consts::PI;

/// A scaling of RoPE's frequencies for longer contexts.
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
    /// YaRN (Peng et al. 2023).
    Yarn(Yarn),
    /// A divisor per frequency (`rotary_dim / 2` of them), as GGUF's `rope_freqs.weight` stores them.
    Factors(Vec<f32>),
    /// Phi-3: a divisor per frequency within the original context (`rotary_dim / 2` of them), and the factor of cosines
    /// and sines. The long factors are for contexts up to the longest; they are only kept to be written again.
    LongRope { short_factor: Vec<f32>, attention_factor: f32, long_factor: Vec<f32>, longest: usize },
}

/// YaRN: frequencies that turn less than `beta_slow` times in the original context are divided by `factor`, those that
/// turn more than `beta_fast` times are kept, and a ramp over their numbers lies between.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    pub factor: f32,
    pub beta_fast: f32,
    pub beta_slow: f32,
    pub original_max_position_embeddings: usize,
    /// Factor of cosines and sines.
    pub attention_factor: f32,
    /// Whether the ramp begins and ends at whole numbers.
    pub truncate: bool,
    pub queries: Option<QueryScaling>,
}

/// A scaling of queries, by the logarithm of the number of original contexts before them. Within the first one it is 1, and
/// here the context is limited to that one; its numbers are kept to be written again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScaling {
    /// The weight of the logarithm: `llama_4_scaling_beta`.
    pub beta: f32,
    /// The longest context of the model.
    pub longest: usize,
}

impl RopeScaling {
    /// The divisors of the frequencies that [`frequencies`] gives for the same base and dimension.
    pub fn divisors(&self, theta: f64, rotary_dim: usize) -> Vec<f64> {
        match self {
            Self::Linear { factor } => vec![f64::from(*factor); rotary_dim / 2],
            Self::Factors(factors) | Self::LongRope { short_factor: factors, .. } => {
                factors.iter().map(|factor| f64::from(*factor)).collect()
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let factors = [*factor, *low_freq_factor, *high_freq_factor].map(f64::from);
                let context = *original_max_position_embeddings as f64;
                frequencies(theta, rotary_dim).map(|f| llama3_divisor(f, factors, context)).collect()
            }
            Self::Yarn(yarn) => yarn.divisors(theta, rotary_dim),
        }
    }

    /// The factor of cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self {
            Self::LongRope { attention_factor, .. } | Self::Yarn(Yarn { attention_factor, .. }) => {
                *attention_factor
            }
            Self::Linear { .. } | Self::Llama3 { .. } | Self::Factors(_) => 1.0,
        }
    }
}

/// The divisor of a frequency, in radians per position; `[factor, low, high]` are the factors of [`RopeScaling::Llama3`].
///
/// transformers, `modeling_rope_utils.py`, `_compute_llama3_parameters`.
fn llama3_divisor(frequency: f64, [factor, low, high]: [f64; 3], context: f64) -> f64 {
    let wavelength = 2.0 * PI / frequency;
    if wavelength < context / high {
        1.0
    } else if wavelength > context / low {
        factor
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

impl Yarn {
    pub const BETA_FAST: f32 = 32.0;
    pub const BETA_SLOW: f32 = 1.0;

    /// The factor of cosines and sines that the paper gives for a context that is `factor` times as long, with a weight of
    /// its logarithm.
    pub fn paper_attention_factor(factor: f32, weight: f32) -> f32 {
        if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
    }

    /// The longest context that a model has here.
    pub fn longest_here(&self, context: usize) -> usize {
        if self.queries.is_some() { context.min(self.original_max_position_embeddings) } else { context }
    }

    /// transformers, `modeling_rope_utils.py`, `_compute_yarn_parameters`.
    fn divisors(&self, theta: f64, rotary_dim: usize) -> Vec<f64> {
        let context = self.original_max_position_embeddings as f64;
        // The number, not rounded, of the frequency that turns so many times in the original context.
        let number = |turns: f32| {
            rotary_dim as f64 * (context / (f64::from(turns) * 2.0 * PI)).ln() / (2.0 * theta.ln())
        };
        let (mut first, mut last) = (number(self.beta_fast), number(self.beta_slow));
        if self.truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        (first, last) = (first.max(0.0), last.min(rotary_dim as f64 - 1.0));
        if first == last {
            last += 0.001;
        }
        let divisor = |index: usize| {
            let ramp = ((index as f64 - first) / (last - first)).clamp(0.0, 1.0);
            1.0 / (ramp / f64::from(self.factor) + 1.0 - ramp)
        };
        (0..rotary_dim / 2).map(divisor).collect()
    }
}

/// The frequencies before scaling, in radians per position, of `rotary_dim / 2` pairs of features.
pub fn frequencies(theta: f64, rotary_dim: usize) -> impl Iterator<Item = f64> {
    (0..rotary_dim / 2).map(move |i| theta.powf(-((2 * i) as f64) / rotary_dim as f64))
}
