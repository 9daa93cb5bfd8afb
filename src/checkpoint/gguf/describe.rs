//! `ModelConfig` and vocabulary → key-values: the other direction of `metadata`. Keys and types are those that
//! llama.cpp's `convert_hf_to_gguf.py` writes.

use super::blocks::GgmlType;
use super::family::Architecture;
use super::rope;
use super::writer::Meta;
use crate::arch::{Family, ModelConfig};
use crate::data::tokenizer::GgufVocab;
use crate::packed::FloatType;

/// All key-values of a file. `name` is the model's, `kind` the type of its linears.
pub fn metadata(
    config: &ModelConfig,
    architecture: Architecture,
    name: &str,
    kind: GgmlType,
    vocab: GgufVocab,
) -> Vec<(String, Meta)> {
    let text = |text: &str| Meta::String(text.to_owned());
    let mut pairs = vec![
        ("general.architecture".to_owned(), text(architecture.name)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(name)),
        ("general.file_type".to_owned(), Meta::U32(file_type(kind))),
        ("general.quantization_version".to_owned(), Meta::U32(2)),
    ];
    let own = |(key, value)| (architecture.key(key), value);
    pairs.extend(numbers(config, architecture).into_iter().map(own));
    pairs.extend(vocabulary(vocab).into_iter().map(|(key, value)| (format!("tokenizer.{key}"), value)));
    pairs
}

fn numbers(config: &ModelConfig, architecture: Architecture) -> Vec<(&'static str, Meta)> {
    let count = |count: usize| Meta::U32(count as u32);
    let float = |value: f64| Meta::F32(value as f32);
    let mut numbers = rope::keys(config, architecture);
    numbers.extend([
        ("embedding_length", count(config.hidden_size)),
        ("block_count", count(config.num_hidden_layers)),
        ("feed_forward_length", count(config.intermediate_size)),
        ("attention.head_count", count(config.num_attention_heads)),
        ("attention.head_count_kv", count(config.num_key_value_heads)),
        ("attention.key_length", count(config.head_dim)),
        ("attention.value_length", count(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", float(config.rms_norm_eps)),
        ("rope.dimension_count", count(config.rotary_dim)),
        ("rope.freq_base", float(config.rope_theta)),
        ("vocab_size", count(config.vocab_size)),
    ]);
    if let Some(window) = config.sliding_window.as_ref().filter(|_| architecture.has_window()) {
        numbers.push(("attention.sliding_window", count(window.length)));
        if config.family == Family::Olmo3 {
            numbers.push(("attention.sliding_window_pattern", Meta::Bools(window.layers.clone())));
        }
        numbers.extend(window.rope_theta.map(|theta| ("rope.freq_base_swa", float(theta))));
    }
    if config.family == Family::Granite {
        numbers.extend([
            ("attention.scale", float(config.query_pre_attn_scalar.sqrt().recip())),
            ("embedding_scale", Meta::F32(config.embedding_scale)),
            ("residual_scale", Meta::F32(config.residual_multiplier)),
            ("logit_scale", Meta::F32(config.logits_scaling)),
        ]);
    }
    let caps = [
        ("attn_logit_softcapping", config.attn_logit_softcapping),
        ("final_logit_softcapping", config.final_logit_softcapping),
    ];
    numbers.extend(caps.into_iter().filter_map(|(key, cap)| Some((key, Meta::F32(cap?)))));
    numbers
}

fn vocabulary(vocab: GgufVocab) -> Vec<(&'static str, Meta)> {
    let mut pairs = vec![
        ("ggml.model", Meta::String(vocab.model)),
        ("ggml.pre", Meta::String(vocab.pre.unwrap_or_else(|| "default".into()))),
        ("ggml.tokens", Meta::Strings(vocab.tokens)),
    ];
    pairs.extend(vocab.scores.map(|scores| ("ggml.scores", Meta::Floats(scores))));
    pairs.extend(vocab.token_types.map(|types| ("ggml.token_type", Meta::Integers(types))));
    if !vocab.merges.is_empty() {
        pairs.push(("ggml.merges", Meta::Strings(vocab.merges)));
    }
    let ids = [
        ("ggml.bos_token_id", vocab.bos),
        ("ggml.eos_token_id", vocab.eos),
        ("ggml.unknown_token_id", vocab.unk),
        ("ggml.padding_token_id", vocab.pad),
    ];
    pairs.extend(ids.into_iter().filter_map(|(key, id)| Some((key, Meta::U32(id?)))));
    let flags = [
        ("ggml.add_bos_token", vocab.add_bos),
        ("ggml.add_eos_token", vocab.add_eos),
        ("ggml.add_space_prefix", vocab.add_space_prefix),
    ];
    pairs.extend(flags.into_iter().filter_map(|(key, flag)| Some((key, Meta::Bool(flag?)))));
    pairs.extend(vocab.chat_template.map(|template| ("chat_template", Meta::String(template))));
    pairs
}

/// The value of `enum llama_ftype` for the type of most tensors.
fn file_type(kind: GgmlType) -> u32 {
    match kind {
        GgmlType::Float(FloatType::F16) => 1,
        GgmlType::Float(FloatType::BF16) => 32,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        _ => 0,
    }
}
