//! `config.json` → `ModelConfig`, in the words of old and new transformers. Says which quantization
//! the directory holds; what that quantization's own keys mean is its format's file's business.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::config::{MOST_LAYERS, ModelConfig, RopeScaling, SlidingWindow};
use crate::error::{Error, Result};

mod family;

use family::Family;

pub const CONFIG_FILE: &str = "config.json";

/// The keys of the families' configs (transformers 4.x and 5.x) that a forward pass depends on.
#[derive(Deserialize)]
struct DecoderConfig {
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
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
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
    let family = Family::of(path, json)?;
    let defaults = family.defaults();
    let raw = DecoderConfig::deserialize(json)
        .map_err(|e| Error::damaged(path, format!("not the configuration of a {family:?} model: {e}")))?;
    if raw.num_attention_heads == 0 {
        return Err(Error::damaged(path, "num_attention_heads is 0"));
    }
    // What is null says more than what is absent.
    let or = |key: &str, value: Option<usize>, default| if json.get(key).is_none() { default } else { value };
    let head_dim = match or("head_dim", raw.head_dim, defaults.head_dim) {
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
    let kv_heads = or("num_key_value_heads", raw.num_key_value_heads, defaults.num_key_value_heads);
    let window = or("sliding_window", raw.sliding_window, defaults.sliding_window);
    let sliding_window = sliding_window(path, family, &raw, window)?;
    if let Some(activation) = raw.hidden_act.filter(|a| a != "silu" && a != "swish") {
        return Err(unsupported(path, format!("hidden_act \"{activation}\""), "silu"));
    }
    let max_position_embeddings = raw.max_position_embeddings.unwrap_or(defaults.max_position_embeddings);
    let old_theta = raw.rope_theta;
    let rope = raw.rope_parameters.or(raw.rope_scaling);
    let partial = rope.as_ref().and_then(|r| r.partial_rotary_factor).or(raw.partial_rotary_factor);
    if partial.is_some_and(|p| p != 1.0) {
        return Err(unsupported(path, "partial_rotary_factor other than 1", "full rotary embeddings"));
    }
    let rope_theta = rope.as_ref().and_then(|r| r.rope_theta).or(old_theta).unwrap_or(10_000.0);
    let attention_bias = raw.attention_bias.unwrap_or(false);
    let (qkv_bias, o_bias) = match family {
        Family::Llama | Family::Qwen3 => (attention_bias, attention_bias),
        Family::Mistral => (false, false),
        Family::Qwen2 => (true, false),
    };
    let config = ModelConfig {
        architecture: family.architecture().to_owned(),
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: raw.num_attention_heads,
        num_key_value_heads: kv_heads.unwrap_or(raw.num_attention_heads),
        head_dim,
        max_position_embeddings,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
        rope_theta,
        rope_scaling: rope.map(|r| rope_scaling(path, r, max_position_embeddings)).transpose()?.flatten(),
        tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        qkv_bias,
        o_bias,
        mlp_bias: family == Family::Llama && raw.mlp_bias.unwrap_or(false),
        qk_norm: family == Family::Qwen3,
        sliding_window,
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

/// `length`: of the window, where any layer has one.
fn sliding_window(
    path: &Path,
    family: Family,
    raw: &DecoderConfig,
    length: Option<usize>,
) -> Result<Option<SlidingWindow>> {
    let count = raw.num_hidden_layers;
    if count > MOST_LAYERS {
        return Err(Error::damaged(path, format!("num_hidden_layers is {count}: more than any model has")));
    }
    let length = match family {
        Family::Qwen2 | Family::Qwen3 => length.filter(|_| raw.use_sliding_window == Some(true)),
        Family::Llama => None,
        Family::Mistral => length,
    };
    let layers = match (&raw.layer_types, family) {
        (_, Family::Llama | Family::Mistral) => vec![true; count],
        (Some(kinds), _) => layer_types(path, kinds, count)?,
        (None, Family::Qwen2 | Family::Qwen3) => {
            (0..count).map(|layer| layer >= raw.max_window_layers.unwrap_or(28)).collect()
        }
    };
    Ok(length.filter(|_| layers.contains(&true)).map(|length| SlidingWindow { length, layers }))
}

/// Which layers have a window.
fn layer_types(path: &Path, kinds: &[String], count: usize) -> Result<Vec<bool>> {
    if kinds.len() != count {
        return Err(Error::damaged(path, format!("{} layer_types for {count} layers", kinds.len())));
    }
    let slides = |kind: &String| match kind.as_str() {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            Err(unsupported(path, format!("layer type \"{other}\""), "full_attention, sliding_attention"))
        }
    };
    kinds.iter().map(slides).collect()
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
