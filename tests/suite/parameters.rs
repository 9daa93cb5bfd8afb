//! Runs that train more than scales: minima, norms and biases.

use std::path::Path;

use crate::support::training::Training;
use crate::support::{Workplace, assert_same_files, fixture, tree};

/// Steps that move everything well beyond the rounding of 16 bits.
fn steps(parameters: &str) -> String {
    let steps = "max_steps = 4\neval_steps = 2\nsave_steps = 2\nlearning_rate = 0.05\nmethod = \"exact\"";
    format!("{steps}\nparameters = {parameters}")
}

/// Trains `parameters` of `model`, and checks that the result is resumed to, exported and applied to the same bytes.
#[track_caller]
fn trains_and_resumes(model: &Path, parameters: &str) -> Training {
    let training = Training::new(model, &steps(parameters));
    let report = training.finetune("run", &["--json"]).json();
    let rounding = report["rounding"].as_f64().unwrap();
    assert!(rounding.abs() < 5e-3, "{}: {report}", model.display());
    let place = &training.place;

    // Resumed from the last snapshot, and without one: then all steps are taken again, and must agree with the journal.
    for resumed in ["from-snapshot", "from-journal"] {
        crate::support::copy_tree(&place.path("run"), &place.path(resumed));
        for name in ["best", "final"] {
            std::fs::remove_dir_all(place.path(resumed).join(name)).unwrap();
        }
        if resumed == "from-journal" {
            std::fs::remove_file(place.path(resumed).join("snapshot.safetensors")).unwrap();
        }
        training.finetune(resumed, &["--resume"]).succeeded();
        for name in ["best", "final"] {
            assert_same_files(&place.path("run").join(name), &place.path(resumed).join(name));
        }
    }

    place.run("export run --format scales -o tuned.safetensors", &[]).succeeded();
    place.run("apply -o again", &[model.as_ref(), "tuned.safetensors".as_ref()]).succeeded();
    assert_same_files(&place.path("run/final"), &place.path("again"));
    training
}

/// A run without a learning rate changes nothing, whatever it trains.
#[track_caller]
fn keeps_every_byte(model: &Path, parameters: &str) {
    let training = Training::new(model, &steps(parameters));
    training.finetune("run", &["--set", "train.learning_rate=0"]).succeeded();
    let last = training.place.path("run/final");
    match model.is_dir() {
        true => assert_same_files(model, &last),
        false => {
            let name = model.file_name().unwrap();
            assert!(std::fs::read(model).unwrap() == std::fs::read(last.join(name)).unwrap());
        }
    }
}

#[test]
fn minima_and_norms_of_a_gguf_file_and_of_mlx_are_trained() {
    for model in ["runs/q4_1.gguf", "checkpoints/mlx-mixed"].map(fixture) {
        let all = "[\"scales\", \"minima\", \"norms\"]";
        let training = trains_and_resumes(&model, all);
        keeps_every_byte(&model, all);
        let bytes = std::fs::read(training.place.path("tuned.safetensors")).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["parameters"], "scales,minima,norms");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let count = |ending: &str| tensors.names().iter().filter(|name| name.ends_with(ending)).count();
        assert_eq!([".scales", ".minima", ".norms"].map(count), [14, 14, 4]);
    }
}

/// Writes a Llama whose queries, keys and values have biases, no two of their values alike. Its GGUF has the rows of
/// queries and keys in another order.
fn with_attention_bias(out: &Path) {
    let from = fixture("llama/base");
    crate::support::copy_tree(&from, out);
    let text = std::fs::read_to_string(from.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["attention_bias"] = true.into();
    std::fs::write(out.join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut biases: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, weight) in tensors.tensors().iter().filter(|(name, _)| name.contains("self_attn")) {
        let values = (0..weight.shape()[0]).map(|row| 0.01 * row as f32 - 0.2);
        let name = name.replace(".weight", ".bias");
        biases.push((name, values.flat_map(f32::to_le_bytes).collect()));
    }
    let views = biases.iter().map(|(name, bytes)| {
        let shape = vec![bytes.len() / 4];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes.as_slice());
        (name.clone(), view.unwrap())
    });
    let all = tensors.tensors().into_iter().chain(views);
    std::fs::write(out.join("model.safetensors"), safetensors::serialize(all, None).unwrap()).unwrap();
}

#[test]
fn norms_and_biases_are_trained_in_every_container() {
    let place = Workplace::new();
    let qwen2 = fixture("families/qwen2");
    place.run("quantize --bits 4 --group-size 32 -o gptq", &[qwen2.as_ref()]).succeeded();
    place.run("export gptq --format gguf -o qwen2.gguf", &[]).succeeded();
    with_attention_bias(&place.path("llama"));
    place.run("quantize llama --bits 4 --group-size 32 -o llama-gptq", &[]).succeeded();
    place.run("export llama-gptq --format gguf -o llama.gguf", &[]).succeeded();
    let repacked = fixture("checkpoints/bnb-nf4-double");
    let all = "[\"rows\", \"norms\", \"biases\"]";
    for model in ["gptq", "qwen2.gguf", "llama.gguf"].map(|name| place.path(name)) {
        trains_and_resumes(&model, all);
        keeps_every_byte(&model, all);
    }
    trains_and_resumes(&repacked, "\"norms\"");
}

#[test]
fn only_the_tensors_that_are_named_differ() {
    let place = Workplace::new();
    let dense = fixture("llama/head-dim-attention-bias");
    place.run("quantize --bits 4 --group-size 32 -o gptq", &[dense.as_ref()]).succeeded();
    let model = place.path("gptq");
    let changed = |parameters: &str, tail: &str| -> Vec<String> {
        let training = Training::new(&model, &steps(parameters));
        training.finetune("run", &["--set", tail]).succeeded();
        let [before, after] = [model.clone(), training.place.path("run/final")]
            .map(|at| tree(&at).remove(Path::new("model.safetensors")).unwrap());
        let [before, after] =
            [&before, &after].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
        let differs = |name: &&str| before.tensor(name).unwrap().data() != after.tensor(name).unwrap().data();
        let mut names: Vec<&str> = after.names().into_iter().collect();
        names.sort_unstable();
        names.into_iter().filter(differs).map(str::to_owned).collect()
    };
    let is_scale = |name: &String| name.ends_with(".scales");
    let scales = changed("\"scales\"", "train.tail_blocks=1");
    assert!(!scales.is_empty() && scales.iter().all(is_scale), "{scales:?}");
    let mut norms = changed("[\"norms\"]", "train.tail_blocks=1");
    norms.retain(|name| !is_scale(name));
    let block = "model.layers.1.";
    let [first, second] =
        ["input_layernorm.weight", "post_attention_layernorm.weight"].map(|n| format!("{block}{n}"));
    assert_eq!(norms, [first, second]);
    let mut biases = changed("[\"biases\"]", "train.tail_blocks=1");
    biases.retain(|name| !is_scale(name));
    let expected =
        ["k_proj", "o_proj", "q_proj", "v_proj"].map(|name| format!("{block}self_attn.{name}.bias"));
    assert_eq!(biases, expected);
}

#[test]
fn what_a_model_does_not_have_is_refused_before_anything_is_written() {
    for (model, parameters, expected) in [
        ("runs/q8_0.gguf", "[\"minima\"]", "Q8_0"),
        ("checkpoints/ct-w4-asym-actorder", "[\"scales\", \"minima\"]", "compressed-tensors"),
        ("runs/q4_1.gguf", "[\"biases\"]", "has no biases"),
    ] {
        let training = Training::new(&fixture(model), &steps(parameters));
        training.finetune("run", &[]).refused(&[expected]);
        assert!(!training.place.path("run").exists());
    }
    let training = Training::new(&fixture("runs/q4_1.gguf"), &steps("[\"scales\", \"rows\"]"));
    training.finetune("run", &[]).refused(&["run.toml:", "\"scales\" and \"rows\""]);
}
