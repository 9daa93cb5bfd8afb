//! What is no checkpoint, or one that does not fit its config.

use super::*;

#[test]
fn a_missing_name_gets_the_nearest_one() {
    let error = open("q4_0.gguf").dense("model.layers.0.self_attn.q_projj.weight").unwrap_err();
    assert!(error.to_string().contains("`model.layers.0.self_attn.q_proj.weight`"), "{error}");
    assert!(!open("hf-f32").contains("model.layers.2.mlp.up_proj.weight"));
    assert!(open("gptq-3bit-v2").contains(Q_PROJ));
}

#[test]
fn a_path_without_a_model_says_what_is_expected() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| Checkpoint::open(path).map(|c| c.format()).unwrap_err().to_string();
    assert!(open(directory.path()).contains("no config.json and 0 .gguf files"));
    assert!(open(&directory.path().join("absent")).contains("absent"));
    fs::copy(fixture("q4_0.gguf"), directory.path().join("model.gguf")).unwrap();
    assert_eq!(Checkpoint::open(directory.path()).unwrap().format(), Format::Gguf);
    fs::copy(fixture("q4_0.gguf"), directory.path().join("other.gguf")).unwrap();
    assert!(open(directory.path()).contains("2 .gguf files"));
    fs::write(directory.path().join("note.txt"), "hello").unwrap();
    assert!(open(&directory.path().join("note.txt")).contains("not a GGUF file"));
}

#[test]
fn a_config_that_does_not_fit_the_weights_is_refused_naming_the_tensor() {
    for (key, value, tensor) in [
        ("intermediate_size", 96, "mlp.gate_proj.weight"),
        ("num_hidden_layers", 3, "model.layers.2.self_attn.q_proj.weight"),
        ("num_key_value_heads", 4, "self_attn.k_proj.weight"),
        ("vocab_size", 41, "model.embed_tokens.weight"),
        ("num_hidden_layers", 2_000_000_000, "num_hidden_layers is 2000000000"),
    ] {
        for name in ["hf-f32", "gptq-4bit-v1"] {
            let Err(error) = with_config(name, |c| c[key] = value.into()) else { panic!("{key}") };
            let module = tensor.trim_end_matches(".weight");
            assert!(error.to_string().contains(module), "{key}: {error}");
        }
    }
    assert!(with_config("hf-f32", |c| c["attention_bias"] = true.into()).is_err());
    assert!(with_config("hf-f32", |c| c["tie_word_embeddings"] = true.into()).is_ok());
}

#[test]
fn quantization_settings_that_are_not_supported_are_named() {
    for (key, value, expected) in [
        ("quant_method", serde_json::json!("fp8"), "\"fp8\""),
        ("quant_method", serde_json::Value::Null, "no quant_method"),
        ("bits", serde_json::json!(5), "5 bits"),
        ("bits", serde_json::json!(8), "qweight"),
        ("bits", serde_json::json!("four"), "GPTQ quantization config"),
        ("group_size", serde_json::json!(0), "group_size 0"),
        ("group_size", serde_json::json!(-2), "group_size -2"),
        ("group_size", serde_json::json!(16), "qzeros"),
        ("checkpoint_format", serde_json::json!("marlin"), "marlin"),
        ("dynamic", serde_json::json!({"-:.*": {}}), "dynamic"),
        ("pack_dtype", serde_json::json!("int16"), "packing"),
    ] {
        let change = |c: &mut serde_json::Value| c["quantization_config"][key] = value.clone();
        let Err(error) = with_config("gptq-4bit-v1", change) else { panic!("{key} {value}") };
        assert!(error.to_string().contains(expected), "{key}: {error}");
    }
}

#[test]
fn groups_of_unequal_size_are_refused() {
    let desc_act = |c: &mut serde_json::Value| c["quantization_config"]["desc_act"] = true.into();
    assert!(with_config("gptq-4bit-v1", desc_act).is_ok(), "g_idx in order");

    let directory = tempfile::tempdir().unwrap();
    for (file, mut bytes) in files(&fixture("gptq-4bit-v1")) {
        if file == "model.safetensors" {
            let shards = shards::Shards::open(&fixture("gptq-4bit-v1")).unwrap();
            let (_, range) = shards.position("model.layers.0.mlp.down_proj.g_idx").unwrap();
            bytes[range.start] = 1;
        }
        fs::write(directory.path().join(file), bytes).unwrap();
    }
    let Err(error) = Checkpoint::open(directory.path()) else { panic!() };
    assert!(error.to_string().contains("group 0 does not have"), "{error}");
}
