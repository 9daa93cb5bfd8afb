//! Gemma 3 with a vision tower: its text part is a `Gemma3ForCausalLM`, whose config lies in `text_config` and whose
//! tensors have other beginnings. What it sees with is left alone.

use serde_json::{Value, json};

use super::family::Family;

const ARCHITECTURE: &str = "Gemma3ForConditionalGeneration";

/// What begins the names of the text part's tensors, in files of transformers since 4.52 and before.
const BEGINNINGS: [(&str, &str); 3] = [
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
];

/// And those of the other parts.
const OTHERS: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

/// The config of the text part, in the words of a model of its own, where there is another part.
pub fn text(json: &Value) -> Option<Value> {
    let of = |json: &Value| json.pointer("/architectures/0").and_then(Value::as_str) == Some(ARCHITECTURE);
    let text = json.get("text_config").and_then(Value::as_object).filter(|_| of(json))?;
    // `Gemma3TextConfig`'s own, which its files leave out.
    let mut config = json!({
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8,
    });
    let merged = config.as_object_mut()?;
    for key in ["bos_token_id", "eos_token_id", "torch_dtype", "dtype", "tie_word_embeddings"] {
        merged.extend(json.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    merged.extend(text.clone());
    merged.insert("architectures".into(), json!([Family::Gemma3.architecture()]));
    merged.insert("model_type".into(), Family::Gemma3.model_type().into());
    Some(config)
}

/// The name that a tensor of the text part has in a model of its own.
pub fn text_name(name: &str) -> Option<String> {
    let with = |(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?));
    BEGINNINGS.into_iter().find_map(with)
}

/// Whether a tensor, by its name in a model of its own, belongs to the text part.
pub fn is_text(name: &str) -> bool {
    !OTHERS.iter().any(|part| name.starts_with(part))
}
