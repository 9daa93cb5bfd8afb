//! Rotary position embedding (Su et al. 2021) in the half-split order of Hugging Face.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use crate::checkpoint::{ModelConfig, RopeScaling};
use crate::kernels::{self, Kernels};

/// How a model rotates.
pub struct Rope {
    pub frequencies: Frequencies,
    /// Of layers with a sliding window, where they are others.
    pub local: Option<Frequencies>,
}

pub struct Frequencies {
    /// Radians per position: `[rotary_dim / 2]`, f32 as transformers keeps them.
    radians: Vec<f32>,
    /// What cosines and sines are multiplied by.
    factor: f32,
}

impl Rope {
    /// `None`: positions are learned.
    pub fn new(config: &ModelConfig) -> Option<Self> {
        let half = config.rotary_dim / 2;
        let plain = |theta: f64| {
            (0..half).map(move |i| theta.powf(-((2 * i) as f64) / config.rotary_dim as f64)).enumerate()
        };
        let scaling = config.rope_scaling.as_ref();
        let factor = match scaling {
            Some(RopeScaling::LongRope { attention_factor, .. }) => *attention_factor,
            _ => 1.0,
        };
        let radians = plain(config.rope_theta).map(|(i, frequency)| scaled(frequency, i, scaling) as f32);
        let local_theta = config.sliding_window.as_ref().and_then(|window| window.rope_theta);
        let local =
            |theta| Frequencies { radians: plain(theta).map(|(_, w)| w as f32).collect(), factor: 1.0 };
        (half > 0).then(|| Self {
            frequencies: Frequencies { radians: radians.collect(), factor },
            local: local_theta.map(local),
        })
    }
}

fn scaled(frequency: f64, index: usize, scaling: Option<&RopeScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / f64::from(*factor),
        Some(RopeScaling::Factors(factors) | RopeScaling::LongRope { short_factor: factors, .. }) => {
            frequency / f64::from(factors[index])
        }
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
    /// `[T, rotary_dim / 2]`, f32
    cos: Tensor<B, 2>,
    sin: Tensor<B, 2>,
}

impl<B: Kernels> Rotation<B> {
    pub fn new(
        positions: impl Iterator<Item = usize> + Clone,
        frequencies: &Frequencies,
        device: &B::Device,
    ) -> Self {
        let Frequencies { radians, factor } = frequencies;
        let shape = [positions.clone().count(), radians.len()];
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = positions
                .clone()
                .flat_map(|p| radians.iter().map(move |w| f(f64::from(p as f32 * w)) as f32 * factor))
                .collect();
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// `x`: `[T, heads, head_dim]`.
    pub fn apply(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [rows, heads, dim] = x.dims();
        let turned = 2 * self.cos.dims()[1];
        if turned == dim {
            return kernels::rotate(x, self.cos.clone(), self.sin.clone());
        }
        let rest = x.clone().slice([0..rows, 0..heads, turned..dim]);
        let x = x.slice([0..rows, 0..heads, 0..turned]);
        Tensor::cat(vec![kernels::rotate(x, self.cos.clone(), self.sin.clone()), rest], 2)
    }
}
