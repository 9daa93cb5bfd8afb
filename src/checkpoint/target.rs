//! The forms in which a model can be written.

use super::gguf::blocks::GgmlType;
use super::scheme::Packing;
use crate::packed::FloatType;

pub enum WriteTarget {
    /// A directory whose packed linears are stored in a scheme.
    Quantized(Box<dyn Packing>),
    /// The same for a tuned copy: its tensors keep the names that they have in the source, and the other parts of a
    /// vision-language model are copied, too.
    Repacked(Box<dyn Packing>),
    /// A directory whose packed linears are expanded to f16.
    Dense,
    /// A .gguf file whose packed linears have this type.
    Gguf(GgmlType),
}

impl WriteTarget {
    /// The type of scales in the file.
    pub fn scale_dtype(&self) -> FloatType {
        match self {
            Self::Quantized(packing) | Self::Repacked(packing) => packing.scale_dtype(),
            Self::Dense | Self::Gguf(_) => FloatType::F16,
        }
    }

    /// The scheme of a directory's linears.
    pub fn packing(&self) -> Option<&dyn Packing> {
        match self {
            Self::Quantized(packing) | Self::Repacked(packing) => Some(packing.as_ref()),
            Self::Dense | Self::Gguf(_) => None,
        }
    }
}
