//! Rotary position embedding (Su et al. 2021) in the half-split order of Hugging Face.

use std::sync::{Mutex, PoisonError};

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
    /// Cosines, and sines, of the positions from 0 on as far as any was asked for: `[P, rotary_dim / 2]`.
    known: Mutex<[Vec<f32>; 2]>,
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
        let local = |theta| Frequencies::new(plain(theta).map(|(_, w)| w as f32).collect(), 1.0);
        (half > 0).then(|| Self {
            frequencies: Frequencies::new(radians.collect(), factor),
            local: local_theta.map(local),
        })
    }
}

impl Frequencies {
    fn new(radians: Vec<f32>, factor: f32) -> Self {
        Self { radians, factor, known: Mutex::default() }
    }

    /// Cosines and sines of some positions: `[positions, rotary_dim / 2]` each. Every position is computed
    /// once: batches come back to the same ones.
    fn tables(&self, positions: &[usize]) -> [Vec<f32>; 2] {
        let half = self.radians.len();
        let end = positions.iter().max().map_or(0, |last| last + 1);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, f) in known.iter_mut().zip([f64::cos as fn(f64) -> f64, f64::sin]) {
            for position in values.len() / half..end {
                let angles = self.radians.iter().map(|w| f64::from(position as f32 * w));
                values.extend(angles.map(|angle| f(angle) as f32 * self.factor));
            }
        }
        known.each_ref().map(|values| {
            let mut table = Vec::with_capacity(positions.len() * half);
            positions.iter().for_each(|at| table.extend_from_slice(&values[at * half..(at + 1) * half]));
            table
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
    pub fn new(positions: &[usize], frequencies: &Frequencies, device: &B::Device) -> Self {
        let shape = [positions.len(), frequencies.radians.len()];
        let [cos, sin] = frequencies
            .tables(positions)
            .map(|table| Tensor::from_data(TensorData::new(table, shape), (device, DType::F32)));
        Self { cos, sin }
    }

    /// Queries and keys: `[T, heads, head_dim]` each.
    pub fn apply(&self, x: [Tensor<B, 3>; 2]) -> [Tensor<B, 3>; 2] {
        kernels::rotate(x, self.cos.clone(), self.sin.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_what_is_computed() {
        let radians = vec![1.0, 0.1, 0.003];
        let frequencies = Frequencies::new(radians.clone(), 1.5);
        // A batch, one that goes further, and one within both.
        for positions in [vec![0, 1, 2, 0, 1], vec![3, 4000, 0], vec![17, 17]] {
            let got = frequencies.tables(&positions);
            let want = [f64::cos as fn(f64) -> f64, f64::sin].map(|f| {
                let angles = positions.iter().flat_map(|p| radians.iter().map(move |w| *p as f32 * w));
                angles.map(|angle| f(f64::from(angle)) as f32 * 1.5).collect::<Vec<_>>()
            });
            assert_eq!(got, want, "{positions:?}");
        }
    }
}
