//! The families' names in a `config.json`, and the value that transformers gives an absent key.

use std::path::Path;

use serde_json::Value;

use super::keys::unsupported;
use crate::arch::Family;
use crate::error::{Error, Result};

/// The vision model whose text part can be read: see `nested`.
pub const VISION_ARCHITECTURE: &str = "Gemma3ForConditionalGeneration";

/// The values of absent keys.
pub struct KeyDefaults {
    /// `None`: as many as attention heads.
    pub num_key_value_heads: Option<usize>,
    /// `None`: the hidden size divided by the number of heads.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub sliding_window: Option<usize>,
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
}

/// The family that a config names by its architecture or, where it has none, by its `model_type`.
///
/// # Errors
/// Another family, or none.
pub fn of(path: &Path, json: &Value) -> Result<Family> {
    let architecture = json.pointer("/architectures/0").and_then(Value::as_str);
    let kind = json.get("model_type").and_then(Value::as_str);
    let found = Family::ALL.into_iter().find(|family| match architecture {
        Some(architecture) => architecture == family.architecture(),
        None => kind == Some(model_type(*family)),
    });
    match (found, architecture.or(kind)) {
        (Some(family), _) => Ok(family),
        (None, Some(other)) => {
            let works = Family::ALL.map(Family::architecture).join(", ");
            let works = format!("{works}, and the text part of {VISION_ARCHITECTURE}");
            Err(unsupported(path, format!("architecture \"{other}\""), &works))
        }
        (None, None) => Err(Error::damaged(path, "names no architecture and no model_type")),
    }
}

pub fn model_type(family: Family) -> &'static str {
    match family {
        Family::Llama => "llama",
        Family::Mistral => "mistral",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Phi3 => "phi3",
        Family::Gemma => "gemma",
        Family::Gemma2 => "gemma2",
        Family::Gemma3 => "gemma3_text",
        Family::Opt => "opt",
    }
}

pub fn defaults(family: Family) -> KeyDefaults {
    let llama = KeyDefaults {
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        sliding_window: None,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
    };
    match family {
        Family::Llama | Family::Opt => llama,
        Family::Mistral => KeyDefaults {
            num_key_value_heads: Some(8),
            max_position_embeddings: 131_072,
            sliding_window: Some(4096),
            ..llama
        },
        Family::Qwen2 => KeyDefaults {
            num_key_value_heads: Some(32),
            max_position_embeddings: 32_768,
            sliding_window: Some(4096),
            ..llama
        },
        Family::Phi3 => KeyDefaults { max_position_embeddings: 4096, rms_norm_eps: 1e-5, ..llama },
        Family::Qwen3 => KeyDefaults { head_dim: Some(128), ..defaults(Family::Qwen2) },
        Family::Gemma => KeyDefaults {
            num_key_value_heads: Some(16),
            head_dim: Some(256),
            max_position_embeddings: 8192,
            ..llama
        },
        Family::Gemma2 => KeyDefaults {
            num_key_value_heads: Some(4),
            sliding_window: Some(4096),
            attn_logit_softcapping: Some(50.0),
            final_logit_softcapping: Some(30.0),
            ..defaults(Family::Gemma)
        },
        Family::Gemma3 => KeyDefaults {
            num_key_value_heads: Some(4),
            max_position_embeddings: 131_072,
            sliding_window: Some(4096),
            ..defaults(Family::Gemma)
        },
    }
}
