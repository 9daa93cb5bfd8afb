//! Rotary position embedding (Su et al. 2021) in the half-split order of Hugging Face.

use std::sync::{Mutex, PoisonError};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use crate::arch::{ModelConfig, RopeScaling, rope};
use crate::kernels::{self, Kernels};

/// The rotary frequencies of a model.
pub struct Rope {
    pub frequencies: Frequencies,
    /// Frequencies of layers with a sliding window, if they differ.
    pub local: Option<Frequencies>,
}

/// Rotary frequencies, and a cache of their cosines and sines.
pub struct Frequencies {
    /// Radians per position: `[rotary_dim / 2]`, in f32 as in transformers.
    radians: Vec<f32>,
    /// Factor of cosines and sines.
    factor: f32,
    /// Cosines and sines of the positions from 0 to the largest used so far: `[P, rotary_dim / 2]` each.
    cache: Mutex<[Vec<f32>; 2]>,
}

impl Rope {
    /// Computes the frequencies of a model. Returns `None` if the model has learned positions instead.
    pub fn new(config: &ModelConfig) -> Option<Self> {
        let plain = |theta: f64| rope::frequencies(theta, config.rotary_dim);
        let scaling = config.rope_scaling.as_ref();
        let factor = scaling.map_or(1.0, RopeScaling::attention_factor);
        let frequencies = plain(config.rope_theta);
        let radians: Vec<f32> = match scaling {
            Some(scaling) => {
                let divisors = scaling.divisors(config.rope_theta, config.rotary_dim);
                frequencies.zip(divisors).map(|(frequency, divisor)| (frequency / divisor) as f32).collect()
            }
            None => frequencies.map(|frequency| frequency as f32).collect(),
        };
        let local_theta = config.sliding_window.as_ref().and_then(|window| window.rope_theta);
        let local = |theta| Frequencies::new(plain(theta).map(|frequency| frequency as f32).collect(), 1.0);
        (config.rotary_dim > 0)
            .then(|| Self { frequencies: Frequencies::new(radians, factor), local: local_theta.map(local) })
    }
}

impl Frequencies {
    fn new(radians: Vec<f32>, factor: f32) -> Self {
        Self { radians, factor, cache: Mutex::default() }
    }

    /// Cosines and sines of some positions: `[positions, rotary_dim / 2]` each. They are cached, because the same
    /// positions occur in every batch.
    fn tables(&self, positions: &[usize]) -> [Vec<f32>; 2] {
        let half = self.radians.len();
        let end = positions.iter().max().map_or(0, |last| last + 1);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, f) in cache.iter_mut().zip([f64::cos as fn(f64) -> f64, f64::sin]) {
            for position in values.len() / half..end {
                let angles = self.radians.iter().map(|w| f64::from(position as f32 * w));
                values.extend(angles.map(|angle| f(angle) as f32 * self.factor));
            }
        }
        cache.each_ref().map(|values| {
            let mut table = Vec::with_capacity(positions.len() * half);
            positions.iter().for_each(|at| table.extend_from_slice(&values[at * half..(at + 1) * half]));
            table
        })
    }
}

/// Cosines and sines of every row of a batch.
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

    /// Rotates queries and keys: `[T, heads, head_dim]` each.
    pub fn apply(&self, x: [Tensor<B, 3>; 2]) -> [Tensor<B, 3>; 2] {
        kernels::rotate(x, self.cos.clone(), self.sin.clone())
    }

    /// The backward pass of [`Self::apply`].
    pub fn backward(&self, dy: [Tensor<B, 3>; 2]) -> [Tensor<B, 3>; 2] {
        kernels::rotate_backward(dy, self.cos.clone(), self.sin.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tables_equal_computed_ones() {
        let radians = vec![1.0, 0.1, 0.003];
        let frequencies = Frequencies::new(radians.clone(), 1.5);
        // A first batch, one with larger positions, and one whose positions are all cached.
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
