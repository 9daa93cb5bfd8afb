//! The forms in which a model can be written.

use super::gguf::blocks::GgmlType;
use super::scheme::Packing;
use crate::packed::FloatType;

pub enum WriteTarget {
    /// A directory whose packed linears are stored in a scheme.
    Quantized(Box<dyn Packing>),
    /// A directory whose packed linears are expanded to f16.
    Dense,
    /// A .gguf file whose packed linears have this type.
    Gguf(GgmlType),
}

impl WriteTarget {
    /// The type of scales in the file.
    pub fn scale_dtype(&self) -> FloatType {
        match self {
            Self::Quantized(packing) => packing.scale_dtype(),
            Self::Dense | Self::Gguf(_) => FloatType::F16,
        }
    }
}
