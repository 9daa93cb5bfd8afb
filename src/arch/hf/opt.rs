//! `OPTConfig`: learned positions, LayerNorms, a plain MLP, biases everywhere.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::keys::{self, divided_head_dim, unsupported};
use super::loose::{Flag, TokenIds, is_set};
use crate::arch::{Activation, BlockKind, Family, ModelConfig};
use crate::error::Result;

#[derive(Deserialize)]
struct OptKeys {
    vocab_size: usize,
    hidden_size: usize,
    ffn_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: Option<usize>,
    do_layer_norm_before: Option<Flag>,
    #[serde(rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: Option<Flag>,
    word_embed_proj_dim: Option<usize>,
    activation_function: Option<String>,
    enable_bias: Option<Flag>,
    layer_norm_elementwise_affine: Option<Flag>,
    tie_word_embeddings: Option<Flag>,
    #[serde(default)]
    bos_token_id: TokenIds,
    #[serde(default)]
    eos_token_id: TokenIds,
}

/// Reads the keys; the numbers are not checked yet.
///
/// # Errors
/// As those of [`super::parse`].
pub fn parse(path: &Path, json: &Value) -> Result<ModelConfig> {
    let raw: OptKeys = keys::read(path, json, Family::Opt)?;
    let head_dim = divided_head_dim(path, raw.hidden_size, raw.num_attention_heads)?;
    if let Some(other) = raw.activation_function.filter(|name| name != "relu") {
        return Err(unsupported(path, format!("activation_function \"{other}\""), "relu"));
    }
    if raw.layer_norm_elementwise_affine == Some(Flag(false)) {
        return Err(unsupported(path, "layer_norm_elementwise_affine false", "norms with weights"));
    }
    let norm_before = raw.do_layer_norm_before.is_none_or(|before| before.0);
    let bias = raw.enable_bias.is_none_or(|bias| bias.0);
    Ok(ModelConfig {
        family: Family::Opt,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.ffn_dim,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: raw.num_attention_heads,
        num_key_value_heads: raw.num_attention_heads,
        head_dim,
        max_position_embeddings: raw.max_position_embeddings.unwrap_or(2048),
        // Not used: the MLP has no gate.
        hidden_act: Activation::Silu,
        // torch's default for a LayerNorm.
        rms_norm_eps: 1e-5,
        norm_offset: 0.0,
        rope_theta: 1e4,
        rope_scaling: None,
        rotary_dim: 0,
        rotated_layers: None,
        word_embed_proj_dim: raw.word_embed_proj_dim.unwrap_or(raw.hidden_size),
        embedding_scale: 1.0,
        residual_multiplier: 1.0,
        logits_scaling: 1.0,
        tie_word_embeddings: raw.tie_word_embeddings.is_none_or(|tied| tied.0),
        block: BlockKind::Opt {
            norm_before,
            final_norm: norm_before && !is_set(raw.remove_final_layer_norm),
        },
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: bias,
        qk_norm: None,
        query_pre_attn_scalar: head_dim as f64,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        sliding_window: None,
        bos_token_id: raw.bos_token_id.0.first().copied(),
        eos_token_ids: raw.eos_token_id.0,
    })
}
