//! The families that a `config.json` can name, and what transformers takes a key for that is absent.

use std::path::Path;

use serde_json::Value;

use super::{nested, unsupported};
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Phi3,
    Gemma,
    Gemma2,
    /// Text alone.
    Gemma3,
    Opt,
}

/// Family, architecture and `model_type`.
const NAMES: [(Family, &str, &str); 9] = [
    (Family::Llama, "LlamaForCausalLM", "llama"),
    (Family::Mistral, "MistralForCausalLM", "mistral"),
    (Family::Qwen2, "Qwen2ForCausalLM", "qwen2"),
    (Family::Qwen3, "Qwen3ForCausalLM", "qwen3"),
    (Family::Phi3, "Phi3ForCausalLM", "phi3"),
    (Family::Gemma, "GemmaForCausalLM", "gemma"),
    (Family::Gemma2, "Gemma2ForCausalLM", "gemma2"),
    (Family::Gemma3, "Gemma3ForCausalLM", "gemma3_text"),
    (Family::Opt, "OPTForCausalLM", "opt"),
];

pub struct Defaults {
    /// `None`: as many as attention heads.
    pub num_key_value_heads: Option<usize>,
    /// `None`: the hidden size divided among the heads.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub sliding_window: Option<usize>,
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
}

impl Family {
    /// # Errors
    /// Another family, or none.
    pub fn of(path: &Path, json: &Value) -> Result<Self> {
        let architecture = json.pointer("/architectures/0").and_then(Value::as_str);
        let model_type = json.get("model_type").and_then(Value::as_str);
        let found = NAMES.iter().find(|(_, name, kind)| match architecture {
            Some(architecture) => architecture == *name,
            None => model_type == Some(kind),
        });
        match (found, architecture.or(model_type)) {
            (Some((family, ..)), _) => Ok(*family),
            (None, Some(other)) => {
                let works = NAMES.map(|(_, architecture, _)| architecture).join(", ");
                let works = format!("{works}, and the text part of {}", nested::ARCHITECTURE);
                Err(unsupported(path, format!("architecture \"{other}\""), &works))
            }
            (None, None) => Err(Error::damaged(path, "names no architecture and no model_type")),
        }
    }

    pub fn architecture(self) -> &'static str {
        NAMES.iter().find(|(family, ..)| *family == self).map_or("", |(_, architecture, _)| architecture)
    }

    pub fn model_type(self) -> &'static str {
        NAMES.iter().find(|(family, ..)| *family == self).map_or("", |(.., kind)| kind)
    }

    pub fn defaults(self) -> Defaults {
        let llama = Defaults {
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            sliding_window: None,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
        };
        match self {
            Self::Llama | Self::Opt => llama,
            Self::Mistral => Defaults {
                num_key_value_heads: Some(8),
                max_position_embeddings: 131_072,
                sliding_window: Some(4096),
                ..llama
            },
            Self::Qwen2 => Defaults {
                num_key_value_heads: Some(32),
                max_position_embeddings: 32_768,
                sliding_window: Some(4096),
                ..llama
            },
            Self::Phi3 => Defaults { max_position_embeddings: 4096, rms_norm_eps: 1e-5, ..llama },
            Self::Qwen3 => Defaults { head_dim: Some(128), ..Self::Qwen2.defaults() },
            Self::Gemma => Defaults {
                num_key_value_heads: Some(16),
                head_dim: Some(256),
                max_position_embeddings: 8192,
                ..llama
            },
            Self::Gemma2 => Defaults {
                num_key_value_heads: Some(4),
                sliding_window: Some(4096),
                attn_logit_softcapping: Some(50.0),
                final_logit_softcapping: Some(30.0),
                ..Self::Gemma.defaults()
            },
            Self::Gemma3 => Defaults {
                num_key_value_heads: Some(4),
                max_position_embeddings: 131_072,
                sliding_window: Some(4096),
                ..Self::Gemma.defaults()
            },
        }
    }
}
