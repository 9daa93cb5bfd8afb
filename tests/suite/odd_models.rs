//! Models that look complete but are not what their files say, which every command refuses at once, and models that
//! only look odd, which every command reads.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::support::training::Training;
use crate::support::{Workplace, copy_tree, fixture, tree};

struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn f32(name: &str, values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Stored { name: name.into(), dtype: Dtype::F32, shape: vec![values.len()], bytes }
}

/// Copies a fixture's directory to `to`.
fn copy(place: &Workplace, name: &str, to: &str) -> PathBuf {
    let model = place.path(to);
    copy_tree(&fixture(name), &model);
    model
}

/// Changes the tensors of `model`.
fn with_tensors(model: &Path, change: impl FnOnce(&mut Vec<Stored>)) {
    let path = model.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, view): (String, TensorView<'_>)| Stored {
        name,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let mut tensors: Vec<Stored> = file.tensors().into_iter().map(stored).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|stored| {
        let view = TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes).unwrap();
        (stored.name.clone(), view)
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn with_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Commands that read a model, whose path follows at the end of the line.
const COMMANDS: [&str; 6] = [
    "inspect --json",
    "eval --score rows.jsonl --json --device cpu",
    "eval --perplexity text.txt --window 8 --device cpu",
    "generate --prompt It --device cpu",
    "quantize --group-size 32 -o out",
    "export --format huggingface --allow-lossy -o out",
];

/// Every command refuses `model` with an error that contains `error` and advice that contains `help`.
#[track_caller]
fn every_command_refuses(place: &Workplace, model: &Path, error: &[&str], help: &str) {
    place.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
    place.write("text.txt", "It was the best of times, it was the worst of times. ".repeat(8));
    let recipe =
        format!("model = {:?}\n[data]\ntrain = \"rows.jsonl\"\ncompletion = \"a\"\nprompt = \"b\"\n", model);
    place.write("run.toml", recipe);
    let before = tree(&place.path(""));
    for line in COMMANDS {
        let answer = place.run(line, &[model.as_ref()]).refused(error);
        assert!(answer.stderr.contains(help), "{line}: {answer:#?}");
        assert!(tree(&place.path("")) == before, "{line} wrote something");
    }
    for line in ["finetune --config run.toml -o out", "plan --config run.toml", "bench --config run.toml"] {
        let answer = place.run(line, &[]).refused(error);
        assert!(answer.stderr.contains(help), "{line}: {answer:#?}");
        assert!(!place.path("out").exists(), "{line} wrote something");
    }
}

#[test]
fn biases_that_the_config_does_not_mention_are_refused_unless_they_are_zero() {
    let place = Workplace::new();
    place.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
    for (number, expected) in [(0.0, true), (0.25, false)] {
        let model = copy(&place, "llama/base", &format!("model-{number}"));
        let quantized = place.path(&format!("quantized-{number}"));
        place.run("quantize --group-size 32 -o", &[quantized.as_ref(), model.as_ref()]).succeeded();
        let plain = place.run("eval --score rows.jsonl --json --device cpu", &[quantized.as_ref()]).stdout;
        for directory in [&model, &quantized] {
            with_tensors(directory, |tensors| {
                for name in
                    ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.up_proj", "mlp.gate_proj"]
                {
                    tensors.push(f32(&format!("model.layers.0.{name}.bias"), &[number; 64]));
                }
            });
            if expected {
                let got = place
                    .run("eval --score rows.jsonl --json --device cpu", &[directory.as_ref()])
                    .succeeded();
                assert!(*directory == model || got.stdout == plain);
                continue;
            }
            let parts =
                ["5 tensors have no place", "config.json", "`model.layers.0.mlp.down_proj.bias`", "1 more"];
            every_command_refuses(&place, directory, &parts, "attention_bias");
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_named_in_whichever_tensor_they_are() {
    let tensors = [
        "model.norm.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.0.mlp.up_proj.weight",
    ];
    for name in tensors {
        for number in [half::f16::NAN, half::f16::INFINITY, half::f16::NEG_INFINITY] {
            let place = Workplace::new();
            let model = copy(&place, "llama/base", "model");
            with_tensors(&model, |tensors| {
                let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
                // In the last row, which no text in this test needs.
                let at = tensor.bytes.len() - 2;
                tensor.bytes[at..].copy_from_slice(&number.to_le_bytes());
            });
            for line in [
                "quantize --group-size 32 -o out",
                "quantize --group-size 32 --format gguf -o out.gguf",
                "export --format gguf -o out.gguf",
            ] {
                place.run(line, &[model.as_ref()]).refused(&[name]);
                assert!(!place.path("out").exists() && !place.path("out.gguf").exists(), "{line}");
            }
            if name == "model.embed_tokens.weight" {
                continue;
            }
            place.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
            for line in ["eval --score rows.jsonl --device cpu", "generate --prompt It --device cpu"] {
                place.run(line, &[model.as_ref()]).refused(&[name]);
            }
        }
    }
}

#[test]
fn a_quantized_model_with_nan_is_not_trained_or_exported() {
    let place = Workplace::new();
    place.run("quantize --group-size 32 -o quantized", &[fixture("llama/base").as_ref()]).succeeded();
    for name in [
        "model.norm.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.0.mlp.up_proj.scales",
    ] {
        let model = place.path(&format!("nan-{name}"));
        copy_tree(&place.path("quantized"), &model);
        with_tensors(&model, |tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
            let at = tensor.bytes.len() - 2;
            tensor.bytes[at..].copy_from_slice(&half::f16::NAN.to_le_bytes());
        });
        for format in ["gguf -o out.gguf", "compressed-tensors -o out", "huggingface --allow-lossy -o out"] {
            place.run(&format!("export --format {format}"), &[model.as_ref()]).refused(&[name]);
        }
        let training = Training::new(&model, "max_steps = 1");
        training.finetune("run", &[]).refused(&[name]);
        assert!(name.ends_with("scales") || !training.out("run").exists());
    }
}

#[test]
fn wrapped_weights_and_adapters_are_refused_by_name() {
    let place = Workplace::new();
    for (start, what, how) in [
        ("_orig_mod.", "torch.compile", "save_pretrained"),
        ("module.", "DistributedDataParallel", "save_pretrained"),
        ("base_model.model.", "PEFT", "save_pretrained"),
        ("model.", "Lightning", "removeprefix"),
    ] {
        let model = copy(&place, "llama/base", &format!("model-{start}"));
        with_tensors(&model, |tensors| {
            tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, start));
        });
        every_command_refuses(&place, &model, &[what, &format!("`{start}")], how);
    }
    let adapter = place.path("adapter");
    std::fs::create_dir(&adapter).unwrap();
    let config = json!({"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8});
    std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::copy(fixture("llama/base/model.safetensors"), adapter.join("adapter_model.safetensors"))
        .unwrap();
    every_command_refuses(
        &place,
        &adapter,
        &["a LoRA adapter for org/base, not a model"],
        "merge_and_unload",
    );
    // Trainers also put the base model's config and tokenizer there.
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("llama/base").join(file), adapter.join(file)).unwrap();
    }
    every_command_refuses(
        &place,
        &adapter,
        &["a LoRA adapter for org/base, not a model"],
        "merge_and_unload",
    );
    std::fs::copy(fixture("llama/base/model.safetensors"), adapter.join("model.safetensors")).unwrap();
    every_command_refuses(&place, &adapter, &["beside a model's weights"], "adapter_config.json");
    every_command_refuses(
        &place,
        &adapter.join("adapter_model.safetensors"),
        &["not a model"],
        "merge_and_unload",
    );
    let file = fixture("llama/base/model.safetensors");
    every_command_refuses(&place, &file, &["one file of a model"], "give its directory");
}

#[test]
fn settings_may_have_every_form_that_transformers_accepts() {
    let place = Workplace::new();
    place.run("quantize --group-size 32 -o model", &[fixture("llama/base").as_ref()]).succeeded();
    place.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
    let model = place.path("model");
    let score =
        || place.run("eval --score rows.jsonl --json --device cpu", &[model.as_ref()]).succeeded().stdout;
    let strict = score();
    with_json(&model.join("config.json"), |config| {
        for (key, value) in [
            ("eos_token_id", json!(-1)),
            ("bos_token_id", json!(null)),
            ("max_position_embeddings", json!(128.0)),
            ("hidden_size", json!(64.0)),
            ("tie_word_embeddings", json!(0)),
            ("rope_scaling", json!({})),
            ("rope_parameters", json!(null)),
            ("head_dim", json!(null)),
            ("dtype", json!(null)),
            ("what_is_this", json!([{}])),
        ] {
            config[key] = value;
        }
        let settings = &mut config["quantization_config"];
        for (key, value) in [
            ("desc_act", json!(null)),
            ("sym", json!(null)),
            ("bits", json!(4.0)),
            ("group_size", json!(32.0)),
        ] {
            settings[key] = value;
        }
    });
    std::fs::write(
        model.join("generation_config.json"),
        "{\"eos_token_id\": [-1, 2.0, null], \"top_p\": null}",
    )
    .unwrap();
    assert_eq!(score(), strict);
    for (key, value) in
        [("hidden_size", json!("64")), ("hidden_size", json!(64.5)), ("eos_token_id", json!("</s>"))]
    {
        with_json(&model.join("config.json"), |config| config[key] = value.clone());
        place.run("inspect", &[model.as_ref()]).refused(&["config.json", &value.to_string()]);
        with_json(&model.join("config.json"), |config| config[key] = json!(64));
    }
}

#[test]
fn every_command_warns_of_a_tokenizer_with_more_tokens_than_the_model() {
    let place = Workplace::new();
    let model = copy(&place, "llama/base", "model");
    with_json(&model.join("tokenizer.json"), |tokenizer| {
        let mut token = tokenizer["added_tokens"][3].clone();
        (token["id"], token["content"]) = (json!(128), json!("<new>"));
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    });
    place.write("text.txt", "It was <new> the best of times. ".repeat(40));
    place.write("rows.jsonl", "{\"text\": \"It was <new>\"}\n{\"text\": \"It was <new>\"}\n");
    for line in [
        "eval --device cpu --perplexity text.txt --window 16",
        "eval --device cpu --score rows.jsonl",
        "generate --device cpu --prompt <new>",
        "quantize --device cpu --method gptq --group-size 32 --calibration text.txt --calibration-length 16 -o out",
    ] {
        let expected = "token 128 is outside the model's vocabulary of 128";
        place.run(line, &[model.as_ref()]).refused(&[expected]);
        assert!(!place.path("out").exists());
    }
    let training = Training::new(&model, "max_steps = 1\n[quantize]\ngroup_size = 32");
    training.place.write("train.jsonl", "{\"text\": \"It <new>\", \"label\": 0}\n");
    training.finetune("run", &[]).refused(&["token 128 is outside the model's vocabulary of 128"]);
}

/// Its quantized scales become floats, so that its weights are written anew.
#[test]
fn a_tuned_copy_of_a_vision_language_model_with_double_quantization_is_whole() {
    let place = Workplace::new();
    let model = copy(&place, "checkpoints/bnb-nf4-double", "vision");
    with_tensors(&model, |tensors| {
        for tensor in tensors.iter_mut() {
            tensor.name = format!("language_model.{}", tensor.name);
        }
        tensors.push(f32("vision_tower.table", &[1.0, -2.5]));
        tensors.push(f32("multi_modal_projector.bias", &[0.5]));
    });
    with_json(&model.join("config.json"), |json| {
        let mut text = json.clone();
        text["model_type"] = "mistral".into();
        text["sliding_window"] = Value::Null;
        let quantization = text.as_object_mut().unwrap().remove("quantization_config").unwrap();
        *json = json!({"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
            "text_config": text, "vision_config": {"depth": 1}, "quantization_config": quantization});
    });
    let training = Training::new(&model, "max_steps = 2\nmethod = \"exact\"");
    training.finetune("run", &[]).succeeded();
    let tuned = training.out("run").join("final");
    let json = |of: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(of.join("config.json")).unwrap()).unwrap()
    };
    let mut expected = json(&model);
    expected["quantization_config"]["bnb_4bit_use_double_quant"] = false.into();
    assert_eq!(json(&tuned), expected);
    let tensors = |of: &Path| {
        let mut found = std::collections::BTreeMap::new();
        with_tensors(of, |tensors| found.extend(tensors.iter().map(|t| (t.name.clone(), t.bytes.clone()))));
        found
    };
    let (base, tuned) = (tensors(&model), tensors(&tuned));
    let kept = base.keys().filter(|name| !name.contains(".nested_"));
    assert!(kept.eq(tuned.keys()), "{:?}", tuned.keys());
    for (name, bytes) in &tuned {
        let may_differ = name.contains(".absmax") || name.contains(".quant_state");
        assert!(may_differ || *bytes == base[name], "{name}");
    }
}

/// bitsandbytes counts its blocks through the whole weight.
#[test]
fn blocks_that_cross_rows_are_refused() {
    let place = Workplace::new();
    let model = copy(&place, "checkpoints/bnb-nf4-double", "crossing");
    with_tensors(&model, |tensors| {
        for tensor in tensors.iter_mut().filter(|tensor| tensor.name.contains("down_proj.weight.quant_state"))
        {
            let text = String::from_utf8(tensor.bytes.clone()).unwrap();
            let mut state: Value = serde_json::from_str(&text).unwrap();
            state["blocksize"] = 256.into();
            tensor.bytes = state.to_string().into_bytes();
            tensor.shape = vec![tensor.bytes.len()];
        }
    });
    every_command_refuses(
        &place,
        &model,
        &["blocks of 256 weights cross the ends of its rows of 64"],
        "whole blocks",
    );
}
