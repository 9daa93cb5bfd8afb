//! llama.cpp's architectures, and what it does for each that no key says.

use super::metadata::Keys;
use crate::arch::Activation;
use crate::arch::{Block, ModelConfig, SlidingWindow};
use crate::error::{Error, Result};

/// `general.architecture`. "llama" covers what differs from it by numbers alone, Mistral among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Phi3,
    Gemma,
    Gemma2,
    Gemma3,
}

/// Family, llama.cpp's architecture and Hugging Face's.
const NAMES: [(Family, &str, &str); 7] = [
    (Family::Llama, "llama", "LlamaForCausalLM"),
    (Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    (Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    (Family::Phi3, "phi3", "Phi3ForCausalLM"),
    (Family::Gemma, "gemma", "GemmaForCausalLM"),
    (Family::Gemma2, "gemma2", "Gemma2ForCausalLM"),
    (Family::Gemma3, "gemma3", "Gemma3ForCausalLM"),
];

impl Family {
    /// # Errors
    /// Another architecture.
    pub fn of(keys: &Keys) -> Result<Self> {
        let architecture = keys.need(keys.string("general.architecture")?, "general.architecture")?;
        let found = NAMES.iter().find(|(_, name, _)| *name == architecture);
        found.map(|(family, ..)| *family).ok_or_else(|| {
            let works = NAMES.map(|(_, name, _)| name).join(", ");
            keys.unsupported(format!("architecture \"{architecture}\""), &works)
        })
    }

    /// The one that a model of Hugging Face's architecture is converted to.
    ///
    /// # Errors
    /// llama.cpp has none, or it is not known here.
    pub fn of_config(config: &ModelConfig) -> Result<Self> {
        let architecture = match config.architecture.as_str() {
            "MistralForCausalLM" => "LlamaForCausalLM",
            other => other,
        };
        let found = NAMES.iter().find(|(.., name)| *name == architecture);
        found.map(|(family, ..)| *family).ok_or_else(|| {
            let works = NAMES.map(|(.., name)| name).join(", ");
            Error::unsupported(
                format!("{architecture} cannot be written as GGUF"),
                format!("works: {works}; or choose another --format"),
            )
        })
    }

    /// Whether llama.cpp computes sliding windows for it.
    pub fn has_window(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    pub fn architecture(self) -> &'static str {
        NAMES.iter().find(|(family, ..)| *family == self).map_or("", |(_, name, _)| name)
    }

    pub fn hugging_face(self) -> &'static str {
        NAMES.iter().find(|(family, ..)| *family == self).map_or("", |(.., name)| name)
    }

    /// Whether rows of q and k are interleaved: see `names`.
    pub fn interleaves(self) -> bool {
        self == Self::Llama
    }

    pub fn block(self) -> Block {
        match self {
            Self::Phi3 => Block::Phi3,
            Self::Gemma2 | Self::Gemma3 => Block::Gemma2,
            _ => Block::Llama,
        }
    }

    /// Gives `config`, which is Llama's so far, what llama.cpp does otherwise.
    ///
    /// # Errors
    /// A mistyped key.
    pub fn complete(self, keys: &Keys, config: ModelConfig) -> Result<ModelConfig> {
        let own = |key: &str| format!("{}.{key}", self.architecture());
        let (hidden, layers) = (config.hidden_size, config.num_hidden_layers);
        let config = match self {
            Self::Gemma | Self::Gemma2 | Self::Gemma3 => ModelConfig {
                hidden_act: Activation::GeluTanh,
                embedding_scale: (hidden as f64).sqrt() as f32,
                ..config
            },
            _ => return Ok(config),
        };
        // The 27B models alone divide by the width that a head would have.
        let largest = (self, layers) == (Self::Gemma2, 46) || (self, layers) == (Self::Gemma3, 62);
        let divided = hidden as f64 / config.num_attention_heads as f64;
        let query_pre_attn_scalar = if largest { divided } else { config.head_dim as f64 };
        let window = |every: usize, rope_theta| -> Result<Option<SlidingWindow>> {
            let length = keys.count(&own("attention.sliding_window"))?.unwrap_or(4096);
            let layers = (1..=layers).map(|layer| layer % every != 0).collect();
            Ok(Some(SlidingWindow { length, layers, rope_theta }))
        };
        let cap = |key: &str, default: f64| -> Result<Option<f32>> {
            Ok(Some(keys.float(&own(key))?.unwrap_or(default) as f32))
        };
        Ok(match self {
            Self::Gemma2 => ModelConfig {
                query_pre_attn_scalar,
                attn_logit_softcapping: cap("attn_logit_softcapping", 50.0)?,
                final_logit_softcapping: cap("final_logit_softcapping", 30.0)?,
                sliding_window: window(2, None)?,
                ..config
            },
            Self::Gemma3 => {
                let local = keys.float(&own("rope.freq_base_swa"))?.unwrap_or(1e4);
                ModelConfig { query_pre_attn_scalar, sliding_window: window(6, Some(local))?, ..config }
            }
            _ => config,
        })
    }
}
