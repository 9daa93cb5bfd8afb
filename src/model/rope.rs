//! Rotary position embedding (Su et al. 2021) in the half-split order of Hugging Face.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use crate::checkpoint::{ModelConfig, RopeScaling};
use crate::kernels::{self, Kernels};

/// How a model rotates.
pub struct Rope {
    /// Radians per position: `[head_dim / 2]`, f32 as transformers keeps them.
    pub frequencies: Vec<f32>,
}

impl Rope {
    pub fn new(config: &ModelConfig) -> Self {
        let half = config.head_dim / 2;
        let plain = (0..half).map(|i| config.rope_theta.powf(-((2 * i) as f64) / config.head_dim as f64));
        let scaled =
            plain.enumerate().map(|(i, frequency)| scaled(frequency, i, config.rope_scaling.as_ref()) as f32);
        Self { frequencies: scaled.collect() }
    }
}

fn scaled(frequency: f64, index: usize, scaling: Option<&RopeScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / f64::from(*factor),
        Some(RopeScaling::Factors(factors)) => frequency / f64::from(factors[index]),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => {
            // transformers, modeling_rope_utils.py, _compute_llama3_parameters.
            let (factor, low, high) =
                (f64::from(*factor), f64::from(*low_freq_factor), f64::from(*high_freq_factor));
            let context = *original_max_position_embeddings as f64;
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < context / high {
                frequency
            } else if wavelength > context / low {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Cosines and sines of every position of a batch.
#[derive(Clone)]
pub struct Rotation<B: Backend> {
    /// `[T, head_dim / 2]`, f32
    cos: Tensor<B, 2>,
    sin: Tensor<B, 2>,
}

impl<B: Kernels> Rotation<B> {
    pub fn new(
        positions: impl Iterator<Item = usize> + Clone,
        frequencies: &[f32],
        device: &B::Device,
    ) -> Self {
        let shape = [positions.clone().count(), frequencies.len()];
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = positions
                .clone()
                .flat_map(|p| frequencies.iter().map(move |w| f(f64::from(p as f32 * w)) as f32))
                .collect();
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// `x`: `[T, heads, head_dim]`.
    pub fn apply(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        kernels::rotate(x, self.cos.clone(), self.sin.clone())
    }
}
