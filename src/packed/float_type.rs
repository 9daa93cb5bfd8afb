//! Float types in which files store scales and plain tensors.

use half::{bf16, f16};

/// A float type of tensors in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    F32,
    F16,
    BF16,
}

impl From<FloatType> for burn::tensor::DType {
    fn from(dtype: FloatType) -> Self {
        match dtype {
            FloatType::F32 => Self::F32,
            FloatType::F16 => Self::F16,
            FloatType::BF16 => Self::BF16,
        }
    }
}

impl FloatType {
    /// The nearest value of this type (ties to even); infinite where it overflows.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// The smallest subnormal number of this type.
    pub fn smallest_positive(self) -> f32 {
        match self {
            Self::F32 => f32::from_bits(1),
            Self::F16 => f16::from_bits(1).to_f32(),
            Self::BF16 => bf16::from_bits(1).to_f32(),
        }
    }
}
