//! The families whose config classes share their keys with `LlamaConfig`: all but OPT.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::family::{self, KeyDefaults};
use super::keys::{self, divided_head_dim, unsupported};
use super::loose::{Flag, TokenIds, is_set};
use super::rope::{self, RopeKeys};
use crate::arch::{Activation, Family, MOST_LAYERS, ModelConfig, SlidingWindow};
use crate::error::{Error, Result};

/// The keys (transformers 4.x and 5.x) that a forward pass depends on.
#[derive(Deserialize)]
struct DecoderKeys {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    rms_norm_eps: Option<f64>,
    #[serde(flatten)]
    rope: RopeKeys,
    tie_word_embeddings: Option<Flag>,
    attention_bias: Option<Flag>,
    mlp_bias: Option<Flag>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<Flag>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    use_bidirectional_attention: Option<Flag>,
    /// Whether each layer rotates queries and keys, in spite of the name.
    no_rope_layers: Option<Vec<Flag>>,
    no_rope_layer_interval: Option<usize>,
    embedding_multiplier: Option<f32>,
    residual_multiplier: Option<f32>,
    attention_multiplier: Option<f64>,
    logits_scaling: Option<f32>,
    #[serde(default)]
    bos_token_id: TokenIds,
    #[serde(default)]
    eos_token_id: TokenIds,
}

/// Reads the keys; the numbers are not checked yet.
///
/// # Errors
/// As those of [`super::parse`].
pub fn parse(path: &Path, json: &Value, family: Family) -> Result<ModelConfig> {
    let raw: DecoderKeys = keys::read(path, json, family)?;
    let defaults = or_defaults(json, &raw, family);
    let divided = divided_head_dim(path, raw.hidden_size, raw.num_attention_heads);
    let head_dim = defaults.head_dim.map_or(divided, Ok)?;
    if is_set(raw.use_bidirectional_attention) {
        return Err(unsupported(path, "use_bidirectional_attention", "causal attention"));
    }
    let rotary = rope::parse(path, family, &raw.rope, head_dim)?;
    check_layers(path, raw.num_hidden_layers)?;
    let rotated_layers = rotated_layers(family, &raw);
    let sliding_window =
        sliding_window(path, family, &raw, defaults.sliding_window, &rotated_layers, rotary.local_theta)?;
    // The multipliers are those of Granite; other families have none, whatever their files say.
    let multiplier = |value: Option<f32>| value.filter(|_| family == Family::Granite).unwrap_or(1.0);
    let (qkv_bias, o_bias) = biases(family, is_set(raw.attention_bias));
    Ok(ModelConfig {
        family,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: raw.num_attention_heads,
        num_key_value_heads: defaults.num_key_value_heads.unwrap_or(raw.num_attention_heads),
        head_dim,
        max_position_embeddings: rotary.max_position_embeddings,
        hidden_act: activation(path, family, &raw)?,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(defaults.rms_norm_eps),
        norm_offset: if family.is_gemma() { 1.0 } else { 0.0 },
        rope_theta: rotary.theta,
        rope_scaling: rotary.scaling,
        rotary_dim: rotary.dim,
        rotated_layers,
        word_embed_proj_dim: raw.hidden_size,
        embedding_scale: multiplier(raw.embedding_multiplier) * family.embedding_scale(raw.hidden_size),
        residual_multiplier: multiplier(raw.residual_multiplier),
        logits_scaling: multiplier(raw.logits_scaling),
        tie_word_embeddings: raw.tie_word_embeddings.map_or(defaults.tie_word_embeddings, |tied| tied.0),
        block: family.block(),
        qkv_bias,
        o_bias,
        mlp_bias: matches!(family, Family::Llama | Family::SmolLm3 | Family::Granite) && is_set(raw.mlp_bias),
        qk_norm: family.qk_norm(),
        query_pre_attn_scalar: match family {
            Family::Gemma2 | Family::Gemma3 => raw.query_pre_attn_scalar.unwrap_or(256.0),
            Family::Granite => raw.attention_multiplier.unwrap_or(1.0).powi(-2),
            _ => head_dim as f64,
        },
        attn_logit_softcapping: defaults.attn_logit_softcapping,
        final_logit_softcapping: defaults.final_logit_softcapping,
        sliding_window,
        bos_token_id: raw.bos_token_id.0.first().copied(),
        eos_token_ids: raw.eos_token_id.0,
    })
}

/// The values of the keys that have a default. Only an absent key takes the default: null is a value of its own.
fn or_defaults(json: &Value, raw: &DecoderKeys, family: Family) -> KeyDefaults {
    fn or<T>(json: &Value, key: &str, value: Option<T>, default: Option<T>) -> Option<T> {
        if json.get(key).is_none() { default } else { value }
    }
    let of = family::defaults(family);
    KeyDefaults {
        num_key_value_heads: or(json, "num_key_value_heads", raw.num_key_value_heads, of.num_key_value_heads),
        head_dim: or(json, "head_dim", raw.head_dim, of.head_dim),
        sliding_window: or(json, "sliding_window", raw.sliding_window, of.sliding_window),
        attn_logit_softcapping: match family {
            Family::Gemma2 | Family::Gemma3 => {
                or(json, "attn_logit_softcapping", raw.attn_logit_softcapping, of.attn_logit_softcapping)
            }
            _ => None,
        },
        final_logit_softcapping: match family {
            Family::Gemma2 | Family::Gemma3 => {
                or(json, "final_logit_softcapping", raw.final_logit_softcapping, of.final_logit_softcapping)
            }
            _ => None,
        },
        ..of
    }
}

/// Whether q, k and v have biases, and whether o has one.
fn biases(family: Family, attention_bias: bool) -> (bool, bool) {
    match family {
        Family::Mistral | Family::Ministral3 | Family::Phi3 => (false, false),
        Family::Qwen2 => (true, false),
        _ => (attention_bias, attention_bias),
    }
}

fn activation(path: &Path, family: Family, raw: &DecoderKeys) -> Result<Activation> {
    let (key, given) = match family {
        // `hidden_act` was "gelu" in the first files, where the tanh approximation was meant.
        _ if family.is_gemma() => ("hidden_activation", &raw.hidden_activation),
        _ => ("hidden_act", &raw.hidden_act),
    };
    match given.as_deref() {
        None if family.is_gemma() => Ok(Activation::GeluTanh),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some(other) => Err(unsupported(path, format!("{key} \"{other}\""), "silu, gelu_pytorch_tanh")),
    }
}

/// The window of the layers that have one. `length` is its length, `rope_theta` the base of these layers' rotation
/// where it differs from the others'.
fn sliding_window(
    path: &Path,
    family: Family,
    raw: &DecoderKeys,
    length: Option<usize>,
    rotated: &Option<Vec<bool>>,
    rope_theta: Option<f64>,
) -> Result<Option<SlidingWindow>> {
    let count = raw.num_hidden_layers;
    let length = match family {
        Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 => length.filter(|_| is_set(raw.use_sliding_window)),
        Family::Llama | Family::Gemma | Family::Granite | Family::Olmo2 => None,
        _ => length,
    };
    let every = |pattern: usize| (1..=count).map(|layer| layer % pattern.max(1) != 0).collect();
    let layers = match (&raw.layer_types, family) {
        (
            Some(kinds),
            Family::Qwen2 | Family::Qwen3 | Family::Gemma2 | Family::Gemma3 | Family::SmolLm3 | Family::Olmo3,
        ) => layer_types(path, kinds, count)?,
        (None, Family::Qwen2 | Family::Qwen3) => {
            (0..count).map(|layer| layer >= raw.max_window_layers.unwrap_or(28)).collect()
        }
        (None, Family::Gemma2) => every(2),
        (None, Family::Olmo3) => every(4),
        (None, Family::Gemma3) => every(raw.sliding_window_pattern.unwrap_or(6)),
        // SmolLM3's windows are on the layers without rotation.
        (None, Family::SmolLm3) => rotated.iter().flatten().map(|rotated| !rotated).collect(),
        _ => vec![true; count],
    };
    Ok(length.filter(|_| layers.contains(&true)).map(|length| SlidingWindow { length, layers, rope_theta }))
}

/// # Errors
/// More layers than any model has: lists by layer stay small.
fn check_layers(path: &Path, count: usize) -> Result<()> {
    match count > MOST_LAYERS {
        true => Err(Error::damaged(path, format!("num_hidden_layers is {count}: more than any model has"))),
        false => Ok(()),
    }
}

/// Whether each layer rotates queries and keys, for the family in which some do not.
fn rotated_layers(family: Family, raw: &DecoderKeys) -> Option<Vec<bool>> {
    let layers = match &raw.no_rope_layers {
        Some(layers) => layers.iter().take(raw.num_hidden_layers).map(|rotated| rotated.0).collect(),
        None => {
            let interval = raw.no_rope_layer_interval.unwrap_or(4).max(1);
            (1..=raw.num_hidden_layers).map(|layer| layer % interval != 0).collect()
        }
    };
    Some(layers).filter(|_| family == Family::SmolLm3)
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
