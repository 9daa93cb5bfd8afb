//! GGUF key-values → `ModelConfig` and the tokenizer's vocabulary.
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-key-value-pairs>.

use std::path::Path;

use super::family::Architecture;
use super::header::{GgufArray, GgufHeader};
use super::keys::Keys;
use super::rope;
use crate::arch::{Activation, Family, MOST_LAYERS, ModelConfig, QkNorm};
use crate::data::tokenizer::{GgufVocab, TURN_ENDS};
use crate::error::{Error, Result};

/// The model's settings, and llama.cpp's architecture of it. `rope_factors` gives the divisors in a tensor by its name.
///
/// # Errors
/// Another architecture or a variant of it that is not supported; a missing, mistyped or impossible value.
pub fn config(
    path: &Path,
    bytes: &[u8],
    header: &GgufHeader,
    rope_factors: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<(ModelConfig, Architecture)> {
    let keys = Keys { path, bytes, header };
    if keys.string("general.type")? == Some("adapter") {
        let help = format!(
            "merge it into its base model with llama.cpp: llama-export-lora -m BASE.gguf --lora {} -o MERGED.gguf",
            path.display()
        );
        return Err(Error::unsupported(format!("{}: a LoRA adapter, not a model", path.display()), help));
    }
    let architecture = Architecture::of(&keys)?;
    let family = architecture.family;
    let own = |key: &str| architecture.key(key);
    if keys.count(&own("expert_count"))?.is_some_and(|experts| experts > 0) {
        return Err(keys.unsupported("a mixture of experts".into(), "dense models"));
    }
    let hidden_size = keys.dimension(&own("embedding_length"))?;
    let num_attention_heads = keys.dimension(&own("attention.head_count"))?;
    let [head_dim, rotary_dim] = head_widths(&keys, architecture, hidden_size, num_attention_heads)?;
    let num_hidden_layers = keys.dimension(&own("block_count"))?;
    if num_hidden_layers > MOST_LAYERS {
        return Err(Error::damaged(path, format!("num_hidden_layers is {num_hidden_layers}")));
    }
    let (rope_scaling, max_position_embeddings) = rope::read(&keys, architecture, rope_factors)?;
    let epsilon = own("attention.layer_norm_rms_epsilon");
    let has = |name: &str| header.tensors.iter().any(|t| t.name == name);
    let config = ModelConfig {
        family,
        vocab_size: keys.vocab_size()?,
        hidden_size,
        intermediate_size: keys.dimension(&own("feed_forward_length"))?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.count(&own("attention.head_count_kv"))?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings,
        rms_norm_eps: keys.need(keys.float(&epsilon)?, &epsilon)?,
        rope_theta: keys.float(&own("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling,
        tie_word_embeddings: !has("output.weight"),
        rotary_dim,
        rotated_layers: None,
        block: family.block(),
        hidden_act: if family.is_gemma() { Activation::GeluTanh } else { Activation::Silu },
        norm_offset: 0.0,
        word_embed_proj_dim: hidden_size,
        embedding_scale: family.embedding_scale(hidden_size),
        residual_multiplier: 1.0,
        logits_scaling: 1.0,
        query_pre_attn_scalar: head_dim as f64,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        qkv_bias: has("blk.0.attn_q.bias"),
        o_bias: has("blk.0.attn_output.bias"),
        mlp_bias: has("blk.0.ffn_gate.bias"),
        qk_norm: has("blk.0.attn_q_norm.weight").then(|| family.qk_norm().unwrap_or(QkNorm::Heads)),
        sliding_window: None,
        bos_token_id: keys.token("bos_token_id")?,
        eos_token_ids: end_tokens(&keys)?,
    };
    let config = architecture.complete(&keys, config)?;
    config.check().map_err(|what| Error::damaged(path, what))?;
    Ok((config, architecture))
}

/// The tokenizer's vocabulary.
///
/// # Errors
/// No vocabulary; a list of another type or length than its tokens.
pub fn vocabulary(path: &Path, bytes: &[u8], header: &GgufHeader) -> Result<GgufVocab> {
    let keys = Keys { path, bytes, header };
    let model = keys.need(keys.string("tokenizer.ggml.model")?, "tokenizer.ggml.model")?;
    let tokens = keys.need(keys.array("tokenizer.ggml.tokens")?, "tokenizer.ggml.tokens")?;
    let per_token = |key: &str| -> Result<Option<GgufArray>> {
        let array = keys.array(key)?;
        match array.filter(|a| a.count != tokens.count) {
            Some(other) => Err(Error::damaged(
                path,
                format!("{key}: {} entries for {} tokens", other.count, tokens.count),
            )),
            None => Ok(array),
        }
    };
    let scores = per_token("tokenizer.ggml.scores")?.map(|a| a.floats(path, bytes)).transpose()?;
    let token_types = per_token("tokenizer.ggml.token_type")?.map(|a| a.integers(path, bytes)).transpose()?;
    let merges = keys.array("tokenizer.ggml.merges")?.map(|a| a.strings(path, bytes)).transpose()?;
    Ok(GgufVocab {
        model: model.to_owned(),
        pre: keys.string("tokenizer.ggml.pre")?.map(str::to_owned),
        tokens: tokens.strings(path, bytes)?,
        scores,
        token_types,
        merges: merges.unwrap_or_default(),
        bos: keys.token("bos_token_id")?,
        eos: keys.token("eos_token_id")?,
        unk: keys.token("unknown_token_id")?,
        pad: keys.token("padding_token_id")?,
        add_bos: keys.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: keys.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: keys.bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: keys.string("tokenizer.chat_template")?.map(str::to_owned),
    })
}

/// The tokens that end a generation.
fn end_tokens(keys: &Keys<'_>) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(keys.token(name)?);
    }
    if let Some(tokens) = keys.array("tokenizer.ggml.tokens")? {
        let tokens = tokens.strings(keys.path, keys.bytes)?;
        let named = tokens.iter().enumerate().filter(|(_, text)| TURN_ENDS.contains(&text.as_str()));
        ids.extend(named.map(|(id, _)| id as u32));
    }
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}

/// The features of each head, and the number of them that are rotated.
fn head_widths(
    keys: &Keys<'_>,
    architecture: Architecture,
    hidden_size: usize,
    heads: usize,
) -> Result<[usize; 2]> {
    let own = |key: &str| architecture.key(key);
    let head_dim = match keys.count(&own("attention.key_length"))? {
        Some(length) => length,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let what = format!("embedding_length {hidden_size} is not a multiple of {heads} heads");
            return Err(Error::damaged(keys.path, what));
        }
    };
    let (rotary, value) = (own("rope.dimension_count"), own("attention.value_length"));
    let rotary_dim = keys.count(&rotary)?.unwrap_or(head_dim);
    let value_dim = keys.count(&value)?.unwrap_or(head_dim);
    for (key, width, fixed) in
        [(rotary, rotary_dim, architecture.family != Family::Phi3), (value, value_dim, true)]
    {
        if fixed && width != head_dim {
            let works = format!("the head dimension, {head_dim}");
            return Err(keys.unsupported(format!("{key} {width}"), &works));
        }
    }
    Ok([head_dim, rotary_dim])
}
