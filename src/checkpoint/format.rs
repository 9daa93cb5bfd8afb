//! The formats that a checkpoint can be in.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A Hugging Face directory that is not quantized.
    HuggingFace,
    Gptq,
    CompressedTensors,
    Awq,
    Aqlm,
    BitsAndBytes,
    Mlx,
    /// qzo's own scheme in a Hugging Face directory.
    Qzo,
    Gguf,
    Synthetic,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HuggingFace => "Hugging Face",
            Self::Gptq => "GPTQ",
            Self::CompressedTensors => "compressed-tensors",
            Self::Awq => "AWQ",
            Self::Aqlm => "AQLM",
            Self::BitsAndBytes => "bitsandbytes 4-bit",
            Self::Mlx => "MLX",
            Self::Qzo => "qzo codebooks",
            Self::Gguf => "GGUF",
            Self::Synthetic => "random weights",
        })
    }
}
