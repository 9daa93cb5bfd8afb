//! How the frequencies of rotary position embeddings (RoPE) are scaled for longer contexts.

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
    /// A divisor per frequency (`rotary_dim / 2` of them), as GGUF's `rope_freqs.weight` stores them.
    Factors(Vec<f32>),
    /// Phi-3: a divisor per frequency within the original context (`rotary_dim / 2` of them), and the factor of cosines
    /// and sines. The long factors are for contexts up to the longest; they are only kept to be written again.
    LongRope { short_factor: Vec<f32>, attention_factor: f32, long_factor: Vec<f32>, longest: usize },
}

impl RopeScaling {
    /// The divisor of frequency number `index`, which is `frequency` radians per position.
    ///
    /// Llama 3's ramp: transformers, `modeling_rope_utils.py`, `_compute_llama3_parameters`.
    pub fn divisor(&self, frequency: f64, index: usize) -> f64 {
        match self {
            Self::Linear { factor } => f64::from(*factor),
            Self::Factors(factors) | Self::LongRope { short_factor: factors, .. } => {
                f64::from(factors[index])
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(|f| f64::from(*f));
                let context = *original_max_position_embeddings as f64;
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                if wavelength < context / high {
                    1.0
                } else if wavelength > context / low {
                    factor
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            }
        }
    }

    /// The factor of cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self {
            Self::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }
}

/// The frequencies before scaling, in radians per position, of `rotary_dim / 2` pairs of features.
pub fn frequencies(theta: f64, rotary_dim: usize) -> impl Iterator<Item = f64> {
    (0..rotary_dim / 2).map(move |i| theta.powf(-((2 * i) as f64) / rotary_dim as f64))
}
