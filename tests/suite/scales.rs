use std::path::Path;

use serde_json::{Value, json};

use crate::support::training::Training;
use crate::support::{Workplace, assert_same_files, fixture, tree};

const TWO_STEPS: &str = "max_steps = 2\neval_steps = 1\nclip = 5.0";

/// A run of two steps that trained `model`, in the directory `run`.
fn trained(model: &Path) -> Training {
    let training = Training::new(model, TWO_STEPS);
    training.finetune("run", &[]).succeeded();
    training
}

/// Exports the scales of `from`.
fn exported(place: &Workplace, from: &str, out: &str) -> Value {
    place.run(&format!("export {from} --format scales -o {out} --json"), &[]).json()
}

/// The command fails with one error that contains all of `parts`, and leaves nothing behind.
#[track_caller]
fn assert_refused(place: &Workplace, line: &str, parts: &[&str]) {
    let before = tree(&place.path(""));
    place.run(line, &[]).refused(parts);
    assert!(tree(&place.path("")) == before, "{line}");
}

#[test]
fn base_and_scales_give_the_bytes_of_the_run_in_every_format() {
    let quantized = Workplace::new();
    let line = "quantize --bits 4 --asymmetric --group-size 32 -o gptq";
    quantized.run(line, &[fixture("llama/base").as_ref()]).succeeded();
    let fixtures = [
        "runs/q4_0.gguf",
        "runs/q4_1.gguf",
        "runs/q8_0.gguf",
        "checkpoints/blocks.gguf",
        "runs/split",
        "checkpoints/ct-w4-asym-actorder",
        "checkpoints/awq-gemm",
        "checkpoints/mlx-mixed",
        "checkpoints/bnb-fp4",
        "checkpoints/bnb-nf4-double",
    ];
    for model in fixtures.map(fixture).into_iter().chain([quantized.path("gptq")]) {
        let training = trained(&model);
        let place = &training.place;
        let report = exported(place, "run", "tuned.safetensors");
        let inspected = place.run("inspect --json", &[model.as_ref()]).json();
        assert_eq!(report["weights"], inspected["trained_weights"], "{}", model.display());
        let length = std::fs::metadata(place.path("tuned.safetensors")).unwrap().len();
        assert_eq!(report["bytes"].as_u64(), Some(length));
        let applied =
            place.run("apply --json -o again", &[model.as_ref(), "tuned.safetensors".as_ref()]).json();
        assert_eq!((&applied["base"], &applied["weights"]), (&report["base"], &report["weights"]));
        assert_same_files(&place.path("run/final"), &place.path("again"));
    }
}

#[test]
fn the_best_evaluation_is_exported_on_request() {
    let training = Training::tiny("max_steps = 4\neval_steps = 1\nlearning_rate = 0.5\nclip = 1000.0");
    let text = std::fs::read_to_string(training.place.path("run.toml")).unwrap();
    training.place.write("run.toml", text.replacen("learning_rate = 5e-3\n", "", 1));
    training.finetune("run", &[]).succeeded();
    let (place, model) = (&training.place, fixture("runs/q4_1.gguf"));
    let [best, last] = ["best", "final"].map(|name| tree(&place.path("run").join(name)));
    assert!(best != last, "such a learning rate makes the model worse");
    for name in ["best", "final"] {
        exported(place, &format!("run/{name}"), &format!("{name}.safetensors"));
        let scales = format!("{name}.safetensors");
        place.run(&format!("apply -o {name}"), &[model.as_ref(), scales.as_ref()]).succeeded();
        assert_same_files(&place.path("run").join(name), &place.path(name));
    }
    exported(place, "run/", "run.safetensors");
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("run.safetensors") == bytes("final.safetensors"), "a run stands for final/");
}

#[test]
fn the_base_of_a_run_that_quantized_its_model_is_the_quantized_one() {
    let dense = fixture("llama/sharded-f16");
    let training = Training::new(&dense, TWO_STEPS);
    training.finetune("run", &["--set", "quantize.group_size=64", "--set", "quantize.bits=4"]).succeeded();
    let place = &training.place;
    exported(place, "run", "tuned.safetensors");
    place.run("quantize --bits 4 --group-size 64 -o quantized", &[dense.as_ref()]).succeeded();
    for (base, out) in [("run/base", "one"), ("quantized", "other")] {
        place.run(&format!("apply {base} tuned.safetensors -o {out}"), &[]).succeeded();
        assert_same_files(&place.path("run/final"), &place.path(out));
    }
    let line = format!("apply {} tuned.safetensors -o out", dense.display());
    assert_refused(place, &line, &["another base model", "sharded-f16 as the run quantized it"]);
}

#[test]
fn a_file_of_scales_is_small_and_plain() {
    let training = trained(&fixture("runs/q4_1.gguf"));
    let place = &training.place;
    let report = exported(place, "run", "tuned.safetensors");
    let mut keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["base", "bytes", "format", "output", "seconds", "warnings", "weights"]);
    assert_eq!((&report["format"], &report["warnings"]), (&json!("scales"), &json!([])));
    let bytes = std::fs::read(place.path("tuned.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let about = header.metadata().as_ref().unwrap();
    let expected = [("format", "qzo-scales"), ("version", "1"), ("parameters", "scales")];
    assert!(expected.iter().all(|(key, value)| about[*key] == *value), "{about:?}");
    assert_eq!(
        (&about["base"], &*about["base_name"]),
        (&report["base"].as_str().unwrap().to_owned(), "q4_1.gguf")
    );
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(all.len(), 14 + 1);
    // 96 input features are three blocks.
    let down = all.tensor("model.layers.0.mlp.down_proj.weight.scales").unwrap();
    assert_eq!((down.dtype(), down.shape()), (safetensors::Dtype::F16, &[64, 3][..]));
    let scales: usize = all.tensors().iter().map(|(_, view)| view.data().len()).sum();
    let header = bytes.len() - scales;
    assert!(header < 14 * 150 + 600, "{header} bytes of header");
}

#[test]
fn another_base_and_a_damaged_file_are_refused() {
    let training = trained(&fixture("runs/q4_1.gguf"));
    let place = &training.place;
    exported(place, "run", "tuned.safetensors");
    let base = std::fs::read(fixture("runs/q4_1.gguf")).unwrap();
    place.write("q4_1.gguf", &base);
    let mut other = base;
    *other.last_mut().unwrap() ^= 1;
    place.write("other.gguf", other);
    let q4_0 = fixture("runs/q4_0.gguf").display().to_string();
    for base in ["other.gguf", "run/final", &q4_0] {
        let line = format!("apply {base} tuned.safetensors -o out");
        assert_refused(place, &line, &["tuned.safetensors", base, "another base model", "q4_1.gguf"]);
    }

    let whole = std::fs::read(place.path("tuned.safetensors")).unwrap();
    for at in [0, 20, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        place.write("flipped.safetensors", bytes);
        place.write("cut.safetensors", &whole[..at]);
        for name in ["flipped", "cut"] {
            assert_refused(place, &format!("apply q4_1.gguf {name}.safetensors -o out"), &[name]);
        }
    }
    place.write("flipped.safetensors", {
        let mut bytes = whole.clone();
        bytes[whole.len() - 100] ^= 4;
        bytes
    });
    assert_refused(place, "apply q4_1.gguf flipped.safetensors -o out", &["is damaged", "checksum"]);
    let model = fixture("checkpoints/mlx-mixed/model.safetensors");
    let line = format!("apply q4_1.gguf {} -o out", model.display());
    assert_refused(place, &line, &["is no file of scales"]);
    assert_refused(place, "apply q4_1.gguf run -o out", &["is no file of scales"]);
    assert_refused(place, "apply q4_1.gguf tuned.safetensors -o run", &["exists already"]);
    assert_refused(place, "apply q4_1.gguf tuned.safetensors -o out.gguf", &["will be a directory"]);
    assert_refused(place, "inspect tuned.safetensors", &["holds tuned scales, not a model"]);
}

#[test]
fn wrong_use_of_an_export_of_scales_is_one_clear_error() {
    let training = trained(&fixture("runs/q4_1.gguf"));
    let place = &training.place;
    let model = fixture("runs/q4_1.gguf").display().to_string();
    crate::support::copy_tree(&place.path("run/final"), &place.path("copy/final"));
    place.write("taken.safetensors", "mine");
    for (from, out, expected) in [
        (&*model, "out.safetensors", "is not the directory of a run"),
        ("copy/final", "out.safetensors", "is not the directory of a run"),
        ("run/base", "out.safetensors", "is not the directory of a run"),
        ("run", "out", "does not end in .safetensors"),
        ("run", "taken.safetensors", "exists already"),
    ] {
        assert_refused(place, &format!("export {from} --format scales -o {out}"), &[expected]);
    }
    std::fs::copy(place.path("run/journal"), place.path("copy/journal")).unwrap();
    std::fs::rename(place.path("copy/final"), place.path("copy/away")).unwrap();
    let unfinished = ["copy/final does not exist", "has not come to its end"];
    assert_refused(place, "export copy --format scales -o out.safetensors", &unfinished);
    let answer =
        place.run("export run --format scales --group-size 32 -o out.safetensors --json", &[]).json();
    assert!(answer["warnings"][0].as_str().unwrap().contains("--group-size is not used"), "{answer}");
}
