//! The families' names in a `config.json`, and the value that transformers gives an absent key.

use std::path::Path;

use serde_json::Value;

use super::keys::unsupported;
use crate::arch::Family;
use crate::error::{Error, Result};

/// A vision-language model whose text part can be read: see `nested`.
pub struct VisionModel {
    pub architecture: &'static str,
    /// The families of its text part, by the part's `model_type`. A part without one is of the first.
    pub families: &'static [(&'static str, Family)],
}

pub const VISION_MODELS: [VisionModel; 4] = [
    VisionModel {
        architecture: "Gemma3ForConditionalGeneration",
        families: &[("gemma3_text", Family::Gemma3)],
    },
    VisionModel {
        architecture: "Mistral3ForConditionalGeneration",
        families: &[("mistral", Family::Mistral), ("ministral3", Family::Ministral3)],
    },
    VisionModel {
        architecture: "Qwen2_5_VLForConditionalGeneration",
        families: &[("qwen2_5_vl_text", Family::Qwen2), ("qwen2_5_vl", Family::Qwen2)],
    },
    VisionModel {
        architecture: "Qwen3VLForConditionalGeneration",
        families: &[("qwen3_vl_text", Family::Qwen3)],
    },
];

/// The values of absent keys.
pub struct KeyDefaults {
    /// `None`: as many as attention heads.
    pub num_key_value_heads: Option<usize>,
    /// `None`: the hidden size divided by the number of heads.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub rope_theta: f64,
    pub tie_word_embeddings: bool,
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
            let vision = VISION_MODELS.map(|model| model.architecture);
            let works = format!("{works}, and the text part of {}", vision.join(", "));
            Err(unsupported(path, format!("architecture \"{other}\""), &works))
        }
        (None, None) => Err(Error::damaged(path, "names no architecture and no model_type")),
    }
}

pub fn model_type(family: Family) -> &'static str {
    match family {
        Family::Llama => "llama",
        Family::Mistral => "mistral",
        Family::Ministral3 => "ministral3",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Phi3 => "phi3",
        Family::Gemma => "gemma",
        Family::Gemma2 => "gemma2",
        Family::Gemma3 => "gemma3_text",
        Family::SmolLm3 => "smollm3",
        Family::Granite => "granite",
        Family::Olmo2 => "olmo2",
        Family::Olmo3 => "olmo3",
        Family::Opt => "opt",
    }
}

pub fn defaults(family: Family) -> KeyDefaults {
    let llama = KeyDefaults {
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rope_theta: 1e4,
        tie_word_embeddings: false,
        rms_norm_eps: 1e-6,
        sliding_window: None,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
    };
    match family {
        Family::Llama | Family::Granite | Family::Opt => llama,
        Family::Mistral => KeyDefaults {
            num_key_value_heads: Some(8),
            max_position_embeddings: 131_072,
            sliding_window: Some(4096),
            ..llama
        },
        Family::Ministral3 => KeyDefaults {
            num_key_value_heads: Some(8),
            head_dim: Some(128),
            max_position_embeddings: 262_144,
            rope_theta: 1e6,
            rms_norm_eps: 1e-5,
            ..llama
        },
        Family::SmolLm3 => KeyDefaults {
            num_key_value_heads: Some(4),
            max_position_embeddings: 32_768,
            rope_theta: 2e6,
            tie_word_embeddings: true,
            ..llama
        },
        Family::Olmo2 => KeyDefaults { rms_norm_eps: 1e-5, ..llama },
        Family::Olmo3 => {
            KeyDefaults { rope_theta: 5e5, rms_norm_eps: 1e-5, sliding_window: Some(4096), ..llama }
        }
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
            tie_word_embeddings: true,
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
            rope_theta: 1e6,
            sliding_window: Some(4096),
            ..defaults(Family::Gemma)
        },
    }
}
