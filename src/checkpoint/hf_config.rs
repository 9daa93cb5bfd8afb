//! `config.json` → `ModelConfig`, in the words of old and new transformers. Says which quantization
//! the directory holds; what that quantization's own keys mean is its format's file's business.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::config::{ModelConfig, RopeScaling};
use crate::error::{Error, Result};

pub const CONFIG_FILE: &str = "config.json";

/// The keys of `LlamaConfig` (transformers 4.x and 5.x) that a forward pass depends on.
#[derive(Deserialize)]
struct LlamaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    /// Old: `{"type" | "rope_type", …}`, with `rope_theta` beside it.
    rope_scaling: Option<Rope>,
    /// New: `{"rope_type", "rope_theta", …}`.
    rope_parameters: Option<Rope>,
    partial_rotary_factor: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    bos_token_id: Option<TokenIds>,
    eos_token_id: Option<TokenIds>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// Reads a JSON file whole.
///
/// # Errors
/// It is missing or not JSON.
pub fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::damaged(path, format!("not valid JSON: {e}")))
}

/// # Errors
/// An architecture, activation or RoPE variant other than the supported ones; a missing, mistyped or
/// impossible number.
pub fn parse(path: &Path, json: &Value) -> Result<ModelConfig> {
    // The architecture first: another family's other keys would only give a misleading message.
    check_family(path, json)?;
    let raw = LlamaConfig::deserialize(json)
        .map_err(|e| Error::damaged(path, format!("not the configuration of a Llama model: {e}")))?;
    if raw.num_attention_heads == 0 {
        return Err(Error::damaged(path, "num_attention_heads is 0"));
    }
    let head_dim = match raw.head_dim {
        Some(head_dim) => head_dim,
        None if raw.hidden_size % raw.num_attention_heads == 0 => raw.hidden_size / raw.num_attention_heads,
        None => {
            let (hidden, heads) = (raw.hidden_size, raw.num_attention_heads);
            return Err(Error::damaged(
                path,
                format!("hidden_size {hidden} is not a multiple of {heads} heads"),
            ));
        }
    };
    if let Some(activation) = raw.hidden_act.filter(|a| a != "silu" && a != "swish") {
        return Err(unsupported(path, format!("hidden_act \"{activation}\""), "silu"));
    }
    let max_position_embeddings = raw.max_position_embeddings.unwrap_or(2048);
    let old_theta = raw.rope_theta;
    let rope = raw.rope_parameters.or(raw.rope_scaling);
    let partial = rope.as_ref().and_then(|r| r.partial_rotary_factor).or(raw.partial_rotary_factor);
    if partial.is_some_and(|p| p != 1.0) {
        return Err(unsupported(path, "partial_rotary_factor other than 1", "full rotary embeddings"));
    }
    let rope_theta = rope.as_ref().and_then(|r| r.rope_theta).or(old_theta).unwrap_or(10_000.0);
    let config = ModelConfig {
        architecture: LLAMA.to_owned(),
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: raw.num_attention_heads,
        num_key_value_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
        head_dim,
        max_position_embeddings,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
        rope_theta,
        rope_scaling: rope.map(|r| rope_scaling(path, r, max_position_embeddings)).transpose()?.flatten(),
        tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        attention_bias: raw.attention_bias.unwrap_or(false),
        mlp_bias: raw.mlp_bias.unwrap_or(false),
        bos_token_id: raw.bos_token_id.and_then(|ids| ids.into_vec().first().copied()),
        eos_token_ids: raw.eos_token_id.map(TokenIds::into_vec).unwrap_or_default(),
    };
    config.check().map_err(|what| Error::damaged(path, what))?;
    Ok(config)
}

/// The end-of-sequence ids of `generation_config.json`, which chat models keep beyond `config.json`'s.
pub fn generation_eos(path: &Path) -> Result<Vec<u32>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let ids = read_json(path)?.get("eos_token_id").cloned().unwrap_or_default();
    let ids = Option::<TokenIds>::deserialize(ids)
        .map_err(|_| Error::damaged(path, "eos_token_id is neither a token id nor a list of them"))?;
    Ok(ids.map(TokenIds::into_vec).unwrap_or_default())
}

const LLAMA: &str = "LlamaForCausalLM";

fn check_family(path: &Path, json: &Value) -> Result<()> {
    let architecture = json.pointer("/architectures/0").and_then(Value::as_str);
    let model_type = json.get("model_type").and_then(Value::as_str);
    match (architecture, model_type) {
        (Some(LLAMA), _) | (None, Some("llama")) => Ok(()),
        (Some(other), _) | (None, Some(other)) => {
            Err(unsupported(path, format!("architecture \"{other}\""), LLAMA))
        }
        (None, None) => Err(Error::damaged(path, "names no architecture and no model_type")),
    }
}

fn rope_scaling(path: &Path, rope: Rope, max_position_embeddings: usize) -> Result<Option<RopeScaling>> {
    let need = |value: Option<f32>, key: &str| {
        value.ok_or_else(|| Error::damaged(path, format!("rope scaling without `{key}`")))
    };
    match rope.rope_type.as_deref() {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: need(rope.factor, "factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: need(rope.factor, "factor")?,
            low_freq_factor: need(rope.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: need(rope.high_freq_factor, "high_freq_factor")?,
            original_max_position_embeddings: rope
                .original_max_position_embeddings
                .unwrap_or(max_position_embeddings),
        })),
        Some(other) => Err(unsupported(path, format!("rope type \"{other}\""), "default, linear, llama3")),
    }
}

fn unsupported(path: &Path, what: impl std::fmt::Display, works: &str) -> Error {
    Error::unsupported(format!("{}: {what} is not supported", path.display()), format!("works: {works}"))
}

#[cfg(test)]
mod tests;
