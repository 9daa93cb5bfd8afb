//! `ModelConfig` → `config.json`, for a model from a file that has none. The result is read again and must give the
//! same `ModelConfig`.

use std::path::Path;

use serde_json::{Value, json};

use super::family::model_type;
use super::read;
use crate::arch::{Activation, Family, ModelConfig, RopeScaling, Yarn};
use crate::data::tokenizer::GgufVocab;

/// The RoPE scalings of Llama 3.1 to 3.3, which other files hold as divisors: factor, low and high frequency factor,
/// original context.
const LLAMA3: [(f32, f32, f32, usize); 2] = [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192)];

/// The relative error of divisors that were computed in f32.
const TOLERANCE: f32 = 1e-4;

/// The `config.json` of a model.
///
/// # Errors
/// A setting that `config.json` has no key for.
pub fn json(config: &ModelConfig, vocab: &GgufVocab) -> Result<Value, String> {
    let family = config.family;
    let act = if config.hidden_act == Activation::Silu { "silu" } else { "gelu_pytorch_tanh" };
    let mut json = json!({
        "architectures": [family.architecture()],
        "model_type": model_type(family),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": act,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": shortest(config.rms_norm_eps),
        "rope_theta": shortest(config.rope_theta),
        "rope_scaling": null,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": vocab.eos,
        "pad_token_id": vocab.pad,
        "torch_dtype": "float16",
    });
    let mut set = |key: &str, value: Value| {
        if let Some(json) = json.as_object_mut() {
            json.insert(key.into(), value);
        }
    };
    if family.is_gemma() {
        set("hidden_activation", act.into());
    }
    if matches!(family, Family::Gemma2 | Family::Gemma3) {
        set("query_pre_attn_scalar", json!(config.query_pre_attn_scalar));
        set("attn_logit_softcapping", json!(config.attn_logit_softcapping));
        set("final_logit_softcapping", json!(config.final_logit_softcapping));
    }
    if family == Family::Phi3 {
        set("partial_rotary_factor", json!(config.rotary_dim as f64 / config.head_dim as f64));
    }
    if family == Family::Granite {
        set("embedding_multiplier", json!(shortest(config.embedding_scale.into())));
        set("residual_multiplier", json!(shortest(config.residual_multiplier.into())));
        set("attention_multiplier", json!(shortest(config.query_pre_attn_scalar.sqrt().recip())));
        set("logits_scaling", json!(shortest(config.logits_scaling.into())));
    }
    if let Some(rotated) = &config.rotated_layers {
        set("no_rope_layers", rotated.iter().map(|rotated| u8::from(*rotated)).collect());
    }
    let window = config.sliding_window.as_ref();
    set("sliding_window", json!(window.map(|window| window.length)));
    if let Some(window) = window {
        let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
        set("layer_types", window.layers.iter().map(kind).collect());
        if let Some(theta) = window.rope_theta.filter(|_| family.is_gemma()) {
            set("rope_local_base_freq", json!(shortest(theta)));
        }
    }
    match &config.rope_scaling {
        Some(RopeScaling::LongRope { attention_factor, short_factor, long_factor, longest }) => {
            set("max_position_embeddings", json!(longest));
            set("original_max_position_embeddings", json!(config.max_position_embeddings));
            set(
                "rope_scaling",
                json!({"type": "longrope", "rope_type": "longrope", "attention_factor": attention_factor,
                       "short_factor": short_factor, "long_factor": long_factor}),
            );
        }
        Some(RopeScaling::Yarn(yarn)) => {
            let longest = yarn.queries.map_or(config.max_position_embeddings, |queries| queries.longest);
            set("max_position_embeddings", json!(longest));
            // transformers knows Ministral 3 only by the new key.
            let key = if family == Family::Ministral3 { "rope_parameters" } else { "rope_scaling" };
            set(key, yarn_keys(config, yarn));
        }
        Some(scaling) => set("rope_scaling", rope_scaling(config, scaling)?),
        None => {}
    }
    check_same(config, &json)?;
    Ok(json)
}

/// The `generation_config.json` of a model, with every token that ends a generation.
pub fn generation(vocab: &GgufVocab) -> Value {
    json!({"bos_token_id": vocab.bos, "eos_token_id": vocab.ends(), "pad_token_id": vocab.pad})
}

fn yarn_keys(config: &ModelConfig, yarn: &Yarn) -> Value {
    let mut keys = json!({
        "rope_type": "yarn",
        "rope_theta": shortest(config.rope_theta),
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_max_position_embeddings,
        "attention_factor": yarn.attention_factor,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "truncate": yarn.truncate,
    });
    if let (Some(queries), Some(keys)) = (yarn.queries, keys.as_object_mut()) {
        keys.insert("llama_4_scaling_beta".into(), json!(queries.beta));
    }
    keys
}

fn rope_scaling(config: &ModelConfig, scaling: &RopeScaling) -> Result<Value, String> {
    match scaling {
        RopeScaling::Linear { factor } => {
            Ok(json!({"type": "linear", "rope_type": "linear", "factor": factor}))
        }
        RopeScaling::Factors(factors) => {
            let same = |(factor, low_freq_factor, high_freq_factor, original)| {
                let scaling = RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: original,
                };
                let known = ModelConfig { rope_scaling: Some(scaling), ..config.clone() }.rope_divisors();
                known.len() == factors.len()
                    && known.iter().zip(factors).all(|(a, b)| (a - b).abs() <= TOLERANCE * b.abs())
            };
            let found = LLAMA3.into_iter().find(|known| same(*known));
            let (factor, low, high, original) =
                found.ok_or("rotary divisors other than Llama 3.1's cannot be written to config.json")?;
            Ok(json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                      "high_freq_factor": high, "original_max_position_embeddings": original}))
        }
        other => Err(format!("{other:?} cannot be written to config.json")),
    }
}

/// A number that was stored as f32, in the fewest digits that give the same f32.
fn shortest(value: f64) -> f64 {
    match f64::from(value as f32) == value {
        true => (value as f32).to_string().parse().unwrap_or(value),
        false => value,
    }
}

/// Reads the config that was written.
///
/// # Errors
/// It differs from `config`.
fn check_same(config: &ModelConfig, json: &Value) -> Result<(), String> {
    let read = read::parse(Path::new(read::CONFIG_FILE), json).map_err(|e| e.to_string())?;
    let wanted = ModelConfig {
        norm_offset: read.norm_offset,
        eos_token_ids: read.eos_token_ids.clone(),
        rope_scaling: match config.rope_scaling {
            Some(RopeScaling::Factors(_)) => read.rope_scaling.clone(),
            ref other => other.clone(),
        },
        ..config.clone()
    };
    let wanted = wanted.rounded_as(&read);
    let wanted_lines = format!("{wanted:#?}");
    let read_lines = format!("{read:#?}");
    match wanted_lines.lines().zip(read_lines.lines()).find(|(wanted, read)| wanted != read) {
        None => Ok(()),
        Some((wanted, read)) => {
            let (wanted, read) = (wanted.trim(), read.trim());
            Err(format!("{wanted} cannot be written to config.json, which would give {read}"))
        }
    }
}
