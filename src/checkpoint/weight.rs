//! A checkpoint's weights as the rest of the program sees them, whatever the file's format.

use super::float::DenseValues;
use crate::error::Result;
use crate::packed::{FloatType, PackedLayout, PackedWeight};

/// A matrix in the form that the file stores it in.
#[derive(Debug, Clone, PartialEq)]
pub enum Weight {
    /// `[out, in]`, row-major.
    Dense {
        shape: [usize; 2],
        values: DenseValues,
    },
    Packed(PackedWeight),
}

/// The form of a [`Weight`], known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Dense(FloatType),
    Packed(PackedLayout),
}

/// One line of `qzo inspect`.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSummary {
    /// The Hugging Face name.
    pub name: String,
    /// The name in the file.
    pub stored_name: String,
    /// The type in the file's own words: `F16`, `Q4_1`, `GPTQ 4-bit`.
    pub dtype: String,
    /// `[out, in]` for matrices.
    pub shape: Vec<usize>,
    pub bytes: usize,
    pub bits_per_weight: f64,
}

impl TensorSummary {
    pub fn new(name: &str, stored_name: &str, dtype: String, shape: &[usize], bytes: usize) -> Self {
        let elements: usize = shape.iter().product();
        Self {
            name: name.to_owned(),
            stored_name: stored_name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
            bits_per_weight: bytes as f64 * 8.0 / elements.max(1) as f64,
        }
    }
}

/// Gives the tuned scales `[out, groups]` of a weight, or the values of another trained tensor, by name. Minima are as the
/// file states them, not in units of their scales.
pub type TunedSource<'a> = dyn FnMut(&str) -> Result<Vec<f32>> + 'a;
