//! Directories that are no checkpoint, and checkpoints that do not fit their config.

use super::*;
use crate::storage::json;

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
    let named_otherwise = directory.path().join("ggml-model.bin");
    fs::rename(directory.path().join("other.gguf"), &named_otherwise).unwrap();
    assert_eq!(Checkpoint::open(&named_otherwise).unwrap().format(), Format::Gguf);
    assert!(open(&fixture("hf-f32").join("model.safetensors")).contains("one file of a model"));
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

/// A copy of a fixture directory with more tensors, as f32, and its config changed.
fn with_tensors(
    name: &str,
    tensors: &[(&str, Vec<usize>, Vec<f32>)],
    change: impl FnOnce(&mut serde_json::Value),
) -> Result<Checkpoint> {
    let directory = tempfile::tempdir().unwrap();
    for (file, bytes) in files(&fixture(name)) {
        fs::write(directory.path().join(file), bytes).unwrap();
    }
    let shards = shards::Shards::open(&fixture(name)).unwrap();
    let mut header: Vec<_> = shards
        .names()
        .map(|name| shards.tensor(name).unwrap())
        .map(|t| (t.name.to_owned(), t.dtype, t.shape.to_vec()))
        .collect();
    header.extend(
        tensors.iter().map(|(name, shape, _)| ((*name).to_owned(), safetensors::Dtype::F32, shape.clone())),
    );
    let mut writer =
        safetensors::Writer::create(&directory.path().join("model.safetensors"), &header).unwrap();
    for name in shards.names() {
        writer.write(name, shards.tensor(name).unwrap().bytes).unwrap();
    }
    for (name, _, values) in tensors {
        writer.write(name, &float::encode(FloatType::F32, values.iter().copied())).unwrap();
    }
    writer.finish().unwrap();
    let path = directory.path().join("config.json");
    let mut config = json::read_json(&path).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    Checkpoint::open(directory.path())
}

/// Fixture directories: one of each scheme, and some that are not quantized.
const DIRECTORIES: [&str; 9] = [
    "hf-f32",
    "hf-f16",
    "gptq-4bit-v1",
    "gptq-3bit-v2",
    "ct-w4-group",
    "ct-w4-head",
    "awq-gemm",
    "mlx-mixed",
    "bnb-fp4",
];

#[test]
fn tensors_that_the_config_does_not_account_for_are_refused_by_name() {
    let strange = [
        ("model.layers.0.self_attn.q_proj.bias", "attention_bias"),
        ("model.layers.1.mlp.down_proj.bias", "mlp_bias"),
        ("model.norm.bias", "biases are not zero"),
        ("lm_head.bias", "biases are not zero"),
        ("model.layers.2.self_attn.q_proj.weight", "2 layers"),
        ("model.layers.2.self_attn.q_proj.bias", "2 layers"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "merge"),
        ("base.lora_B.default.weight", "merge"),
        ("model.layers.0.self_attn.q_norm.weight", "belongs to these weights"),
        ("model.layers.0.self_attn.sinks", "belongs to these weights"),
        ("model.layers.0.mlp.experts.0.up_proj.weight", "belongs to these weights"),
        ("model.layers.0.self_attn.k_proj.k_scale", "belongs to these weights"),
        ("score.weight", "belongs to these weights"),
    ];
    for directory in DIRECTORIES {
        for (name, help) in strange {
            let Err(error) = with_tensors(directory, &[(name, vec![2], vec![0.0, 0.5])], |_| ()) else {
                panic!("{directory}: {name}")
            };
            let text = error.to_string();
            assert!(
                text.contains(&format!(
                    "1 tensor has no place in the model that config.json describes: `{name}`"
                )),
                "{text}"
            );
            assert!(error.help().unwrap().contains(help), "{error:?}");
        }
        let many: Vec<_> = (0..7).map(|i| format!("model.layers.{i}.x")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), vec![1], vec![1.0])).collect();
        let Err(error) = with_tensors(directory, &many, |_| ()) else { panic!("{directory}") };
        assert!(
            error.to_string().contains("7 tensors have") && error.to_string().contains("and 3 more"),
            "{error}"
        );
    }
}

#[test]
fn tensors_that_cannot_change_the_results_are_accepted() {
    let fine = [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.mlp.down_proj.bias",
        "lm_head.bias",
        "model.norm.bias",
    ];
    let ignored = [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.attn.masked_bias",
        "model.layers.0.attn.bias",
        "vision_tower.encoder.weight",
        "model.multi_modal_projector.weight",
        "mtp.layers.0.weight",
    ];
    for directory in DIRECTORIES {
        let zero = fine.map(|name| (name, vec![3], vec![0.0, -0.0, 0.0]));
        with_tensors(directory, &zero, |_| ()).unwrap_or_else(|error| panic!("{directory}: {error}"));
        let other = ignored.map(|name| (name, vec![2], vec![1.0, 2.0]));
        with_tensors(directory, &other, |_| ()).unwrap_or_else(|error| panic!("{directory}: {error}"));
    }
}

#[test]
fn a_head_of_its_own_is_refused_where_it_is_tied_to_other_embeddings() {
    let tie = |config: &mut serde_json::Value| config["tie_word_embeddings"] = true.into();
    for name in ["hf-f32", "hf-f16", "gptq-4bit-v1"] {
        let Err(error) = with_config(name, tie) else { panic!("{name}") };
        assert!(error.to_string().contains("`lm_head.weight`"), "{error}");
        assert!(error.help().unwrap().contains("tie_word_embeddings"), "{error:?}");
    }
    // A packed head is never a copy of the embeddings.
    let Err(error) = with_config("ct-w4-head", tie) else { panic!() };
    assert!(error.to_string().contains("`lm_head.weight_packed`"), "{error}");
    // The same values, wherever they lie and whatever their type.
    let source = open("../llama/tied-bf16");
    let embeddings = source.dense("model.embed_tokens.weight").unwrap();
    let shape = source.shape("model.embed_tokens.weight").unwrap();
    let with_head =
        |values| with_tensors("../llama/tied-bf16", &[("lm_head.weight", shape.clone(), values)], |_| ());
    assert!(with_head(embeddings.clone()).unwrap().config().tie_word_embeddings);
    let mut other = embeddings;
    *other.last_mut().unwrap() += 1.0;
    assert!(with_head(other).is_err());
}

#[test]
fn tensors_of_a_scheme_that_is_not_declared_say_which_it_is() {
    for (name, scheme) in [
        ("gptq-4bit-v1", "GPTQ or AWQ"),
        ("awq-gemm", "GPTQ or AWQ"),
        ("ct-w4-group", "compressed-tensors"),
        ("bnb-nf4-double", "bitsandbytes"),
        ("mlx-mixed", "MLX"),
    ] {
        let undeclare = |config: &mut serde_json::Value| {
            for key in ["quantization_config", "quantization", "compression_config"] {
                config.as_object_mut().unwrap().remove(key);
            }
        };
        let Err(error) = with_config(name, undeclare) else { panic!("{name}") };
        assert!(error.to_string().contains(&format!("holds tensors of {scheme}")), "{error}");
    }
    // Zero points and an order of features, where the settings say that there are none.
    for (key, part) in [("symmetric", "weight_zero_point"), ("actorder", "weight_g_idx")] {
        let Err(error) = with_config("ct-w4-asym-actorder", |config| {
            let weights = &mut config["quantization_config"]["config_groups"]["group_0"]["weights"];
            weights[key] = if key == "symmetric" { true.into() } else { serde_json::Value::Null };
        }) else {
            panic!("{key}")
        };
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn weights_of_a_wrapped_model_or_an_adapter_are_recognised() {
    let rename = |to: &dyn Fn(&str) -> String| {
        let directory = tempfile::tempdir().unwrap();
        for (file, bytes) in files(&fixture("hf-f32")) {
            fs::write(directory.path().join(file), bytes).unwrap();
        }
        let shards = shards::Shards::open(&fixture("hf-f32")).unwrap();
        let tensors: Vec<_> = shards.names().map(|name| shards.tensor(name).unwrap()).collect();
        let header: Vec<_> = tensors.iter().map(|t| (to(t.name), t.dtype, t.shape.to_vec())).collect();
        let path = directory.path().join("model.safetensors");
        let mut writer = safetensors::Writer::create(&path, &header).unwrap();
        tensors.iter().for_each(|t| writer.write(&to(t.name), t.bytes).unwrap());
        writer.finish().unwrap();
        let error = Checkpoint::open(directory.path()).map(|_| ()).unwrap_err();
        (error.to_string(), error.help().unwrap_or_default().to_owned())
    };
    let before = |start: &'static str| move |name: &str| format!("{start}{name}");
    let inner = |name: &str| name.replace("self_attn.", "_orig_mod.self_attn.");
    let base_layer = |name: &str| match name.strip_suffix("q_proj.weight") {
        Some(start) if name.contains("layers.0") => {
            format!("base_model.model.{start}q_proj.lora_A.default.weight")
        }
        _ => format!("base_model.model.{}", name.replace("q_proj.weight", "q_proj.base_layer.weight")),
    };
    for (to, what, how) in [
        (&before("_orig_mod.") as &dyn Fn(&str) -> String, "torch.compile", ".replace('_orig_mod.', '')"),
        (&inner, "torch.compile", ".replace('_orig_mod.', '')"),
        (&before("module."), "DistributedDataParallel", ".replace('module.', '')"),
        (&before("module._orig_mod."), "DistributedDataParallel", ".replace('_orig_mod.', '')"),
        (&before("base_model.model."), "PEFT", ".replace('base_model.model.', '')"),
        (&before("model."), "Lightning", ".removeprefix('model.')"),
        (&before("actor."), "a wrapper around the model", ".replace('actor.', '')"),
        (&base_layer, "LoRA adapter that is not merged", "merge_and_unload"),
    ] {
        let (error, help) = rename(to);
        assert!(error.contains(what) && help.contains(how), "{what}: {error} {help}");
    }
}
