//! Vision-language models. The text part of one is a model of a supported family, whose config lies in `text_config` and
//! whose tensors' names begin differently. The vision tower and its projector are never read.

use serde_json::{Map, Value, json};

use super::family::{VISION_MODELS, model_type};
use crate::arch::Family;

/// The prefixes of the text part's tensors, in files of transformers since 4.52 and before, and the prefix that each
/// has in a model of the text part alone.
const BEGINNINGS: [(&str, &str); 3] = [
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
];

/// The prefixes of the other parts' tensors.
const OTHERS: [&str; 6] = [
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "visual.",
    "model.visual.",
];

/// The config of the text part, as a model of the text part alone would have it; `None` where there is no other part.
pub fn text(json: &Value) -> Option<Value> {
    let architecture = json.pointer("/architectures/0").and_then(Value::as_str)?;
    let model = VISION_MODELS.iter().find(|model| model.architecture == architecture)?;
    let kind_of = |json: &Value| json.get("model_type").and_then(Value::as_str).map(str::to_owned);
    let (text, kind) = match json.get("text_config") {
        Some(text) => (text, kind_of(text).unwrap_or_else(|| model.families[0].0.to_owned())),
        // Older files of Qwen2.5-VL have the keys of the text part among those of the whole.
        None => (json, kind_of(json)?),
    };
    let (_, family) = model.families.iter().find(|(known, _)| *known == kind)?;
    let text = text.as_object()?;
    let mut merged = absent_keys(*family);
    for key in ["bos_token_id", "eos_token_id", "torch_dtype", "dtype", "tie_word_embeddings"] {
        merged.extend(json.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    merged.extend(text.clone());
    merged.insert("architectures".into(), json!([family.architecture()]));
    merged.insert("model_type".into(), model_type(*family).into());
    Some(Value::Object(merged))
}

/// The keys that files of text parts leave out, though files of a model by itself have them.
fn absent_keys(family: Family) -> Map<String, Value> {
    let keys = match family {
        // The defaults of `Gemma3TextConfig`.
        Family::Gemma3 => json!({
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8,
        }),
        _ => json!({}),
    };
    keys.as_object().cloned().unwrap_or_default()
}

/// The name of a text part's tensor in a model of the text part alone; `None` for all other names.
pub fn text_name(name: &str) -> Option<String> {
    let with = |(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?));
    BEGINNINGS.into_iter().find_map(with)
}

/// Whether a tensor belongs to the text part, by its name in a model of the text part alone.
pub fn is_text(name: &str) -> bool {
    !OTHERS.iter().any(|part| name.starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEMMA: &str = "Gemma3ForConditionalGeneration";

    #[test]
    fn the_kind_of_a_text_part_gives_its_family() {
        for (architecture, kind, family) in [
            ("Mistral3ForConditionalGeneration", json!("mistral"), "MistralForCausalLM"),
            ("Mistral3ForConditionalGeneration", json!("ministral3"), "Ministral3ForCausalLM"),
            ("Mistral3ForConditionalGeneration", json!(null), "MistralForCausalLM"),
            ("Qwen3VLForConditionalGeneration", json!("qwen3_vl_text"), "Qwen3ForCausalLM"),
            ("Qwen2_5_VLForConditionalGeneration", json!("qwen2_5_vl_text"), "Qwen2ForCausalLM"),
        ] {
            let whole = json!({"architectures": [architecture], "text_config": {"model_type": kind}});
            assert_eq!(super::text(&whole).unwrap()["architectures"], json!([family]));
        }
        let flat = json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "hidden_size": 8
        });
        let text = super::text(&flat).unwrap();
        assert_eq!((&text["model_type"], &text["hidden_size"]), (&json!("qwen2"), &json!(8)));
        let other = json!({"architectures": ["Mistral3ForConditionalGeneration"],
            "text_config": {"model_type": "mistral4"}});
        assert_eq!(super::text(&other), None);
    }

    #[test]
    fn a_text_part_has_the_config_of_a_model_of_its_own() {
        let whole = json!({
            "architectures": [GEMMA], "model_type": "gemma3", "eos_token_id": [1, 106], "vision_config": {},
            "text_config": {"hidden_size": 2560, "model_type": "gemma3_text", "sliding_window": 1024},
        });
        let text = text(&whole).unwrap();
        let expected = json!({
            "vocab_size": 262_208, "hidden_size": 2560, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "eos_token_id": [1, 106], "sliding_window": 1024,
            "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
        });
        assert_eq!(text, expected);
        assert_eq!(super::text(&text), None);
        assert_eq!(super::text(&json!({"architectures": [GEMMA], "text_config": 1})), None);
    }

    #[test]
    fn tensors_of_the_text_part_are_told_from_the_others() {
        for (stored, own) in [
            ("language_model.model.layers.0.mlp.up_proj.weight", Some("model.layers.0.mlp.up_proj.weight")),
            ("model.language_model.norm.weight", Some("model.norm.weight")),
            ("language_model.lm_head.weight", Some("lm_head.weight")),
            ("model.norm.weight", None),
            ("vision_tower.vision_model.embeddings.position_embedding.weight", None),
        ] {
            assert_eq!(text_name(stored).as_deref(), own, "{stored}");
        }
        assert!(is_text("model.norm.weight") && is_text("lm_head.weight"));
        assert!(!is_text("model.vision_tower.x") && !is_text("multi_modal_projector.x"));
    }
}
