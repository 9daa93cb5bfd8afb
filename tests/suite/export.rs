use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::training::Training;
use crate::support::{Workplace, assert_same_tree, copy_tree, fixture, tree};

/// Allows for sums of f32 in another order.
const TOLERANCE: f64 = 1e-5;

fn place_with(line: &str, source: &Path) -> Workplace {
    let place = Workplace::new();
    place.run(line, &[source.as_ref()]).succeeded();
    place
}

/// The tensors of all safetensors files of a directory.
fn tensors(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = tree(directory).into_iter();
    let files = files.filter(|(name, _)| name.extension().is_some_and(|end| end == "safetensors"));
    let mut all = BTreeMap::new();
    for (_, bytes) in files {
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        all.extend(tensors.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())));
    }
    assert!(!all.is_empty(), "no tensors in {}", directory.display());
    all
}

/// Compares all tensors but the norms, which become F32 on the way through a GGUF file.
#[track_caller]
fn assert_same_tensors(expected: &Path, got: &Path) {
    let [expected, got] = [expected, got].map(|directory| {
        let mut tensors = tensors(directory);
        tensors.retain(|name, _| !name.contains("norm"));
        tensors
    });
    assert_eq!(expected.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    let differs = expected.iter().find(|(name, bytes)| &got[*name] != *bytes);
    assert_eq!(differs.map(|(name, _)| name), None);
}

/// Compares all files, but not the settings that say how the codes were found.
#[track_caller]
fn assert_same_files(expected: &Path, got: &Path) {
    let [expected, got] = [expected, got].map(|directory| {
        let mut files = tree(directory);
        for name in ["config.json", "quantize_config.json"] {
            assert!(files.remove(Path::new(name)).is_some());
        }
        files
    });
    assert_same_tree(&expected, &got, "exported");
}

/// −log p of every token of texts and ids. Texts compare the tokenizers, too.
fn nll(place: &Workplace, model: &str) -> Vec<f64> {
    let rows = "{\"text\": \"It was the best\"}\n{\"text\": \" of  times!\"}\n{\"input_ids\": [1, 40, 50, 60, 70, 80]}\n";
    let rows = place.write("rows.jsonl", rows);
    let report = place.run(&format!("eval --json --device cpu {model} --score"), &[rows.as_ref()]).json();
    let sequences = report["sequences"].as_array().unwrap().iter();
    sequences.flat_map(|s| s["token_nll"].as_array().unwrap()).map(|nll| nll.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_same_nll(place: &Workplace, one: &str, other: &str, tolerance: f64) {
    let (one_nll, other_nll) = (nll(place, one), nll(place, other));
    assert_eq!(one_nll.len(), other_nll.len(), "{one} and {other} tokenize otherwise");
    for (a, b) in one_nll.iter().zip(&other_nll) {
        assert!((a - b).abs() <= tolerance, "{one} and {other}: {a} and {b}");
    }
}

/// The command fails with one error that contains `what`, and advice that contains `help`.
#[track_caller]
fn assert_refused(place: &Workplace, line: &str, what: &str, help: &str) {
    let answer = place.run(line, &[]).refused(&[what]);
    assert!(answer.stderr.contains(help), "`{help}` is missing in: {}", answer.stderr);
}

#[test]
fn integer_codes_stay_the_same_from_format_to_format_and_back() {
    let cases = [
        ("--bits 4 --group-size 32", "gptq compressed-tensors gguf"),
        ("--bits 4 --group-size 16 --asymmetric", "gptq compressed-tensors awq"),
        ("--bits 4 --group-size 32 --asymmetric", "gptq gguf compressed-tensors awq"),
        ("--bits 8 --group-size 32", "gptq gguf compressed-tensors"),
        ("--bits 3 --group-size -1", "gptq compressed-tensors"),
        ("--bits 2 --group-size 32 --asymmetric", "gptq compressed-tensors"),
    ];
    for (settings, formats) in cases {
        let place = place_with(&format!("quantize {settings} -o start"), &fixture("llama/base"));
        place.write("start/README.md", "# A model\r\n\0");
        place.write("start/chat_template.jinja", "{{ messages[0]['content'] }}");
        let mut model = "start".to_string();
        for (step, format) in formats.split(' ').chain(["gptq"]).enumerate() {
            let ending = if format == "gguf" { ".gguf" } else { "" };
            let out = format!("step{step}{ending}");
            let line = format!("export {model} --format {format} -o {out} --json");
            let report = place.run(&line, &[]).json();
            assert_eq!(report["exact"], 14, "{settings}: {line}: {report}");
            assert!(report["minimum_rounding"].as_f64().unwrap() < 0.008, "{report}");
            assert_same_nll(&place, "start", &out, if settings.contains("asym") { 0.02 } else { TOLERANCE });
            model = out;
        }
        assert_same_tensors(&place.path("start"), &place.path(&model));
        if !formats.contains("gguf") {
            assert_same_files(&place.path("start"), &place.path(&model));
        }
    }
}

#[test]
fn act_order_is_kept_if_the_format_has_it() {
    let place = Workplace::new();
    let text = place.write("text.txt", "the best of times it was the age of wisdom light ".repeat(400));
    let line = format!(
        "quantize --method gptq --group-size 32 --act-order --calibration {} --calibration-samples 4 \
         --calibration-length 64 --device cpu -o start",
        text.display()
    );
    place.run(&line, &[fixture("llama/base").as_ref()]).succeeded();
    place.run("export start --format compressed-tensors -o there", &[]).succeeded();
    place.run("export there --format gptq -o back", &[]).succeeded();
    assert_same_tensors(&place.path("start"), &place.path("back"));
    assert_refused(&place, "export start --format gguf -o out.gguf", "act-order", "--allow-lossy");
    let report = place.run("export start --format gguf -o out.gguf --allow-lossy --json", &[]).json();
    assert!(report["requantized"].as_u64().unwrap() > 0, "{report}");
    assert_same_nll(&place, "start", "out.gguf", 2.0);
}

#[test]
fn groups_are_split_and_joined() {
    let place = place_with("quantize --group-size 64 -o wide", &fixture("llama/base"));
    place.run("export wide --format gptq --group-size 32 -o narrow", &[]).succeeded();
    place.run("export narrow --format gptq --group-size 64 -o back", &[]).succeeded();
    assert_same_files(&place.path("wide"), &place.path("back"));
    place.run("export wide --format gguf -o wide.gguf", &[]).succeeded();
    place.run("export wide.gguf --format gptq --group-size 64 -o joined", &[]).succeeded();
    assert_same_tensors(&place.path("wide"), &place.path("joined"));
    place.run("export wide --format gptq --group-size -1 -o rows", &[]).refused(&["scales of their own"]);
    assert!(!place.path("rows").exists());
}

#[test]
fn a_quantized_gguf_gives_the_numbers_of_its_directory_in_every_family() {
    let directories =
        ["qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "mistral", "ministral3", "smollm3"];
    let others = ["granite", "olmo2", "olmo3", "ministral3-vision", "qwen2-vision", "qwen3-vision"];
    let families = directories.into_iter().chain(others).map(|name| format!("families/{name}"));
    let llamas =
        ["base", "rope-linear", "rope-llama3-old-keys", "mlp-bias", "head-dim-attention-bias", "tied-bf16"];
    let llamas = llamas.map(|name| format!("llama/{name}"));
    for name in &families.chain(llamas).collect::<Vec<_>>() {
        let place = Workplace::new();
        copy_tree(&fixture(name), &place.path("model"));
        // llama.cpp divides by the width of a head.
        let path = place.path("model/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if let Some(scalar) = config.get_mut("query_pre_attn_scalar") {
            *scalar = 16.into();
        }
        std::fs::write(&path, config.to_string()).unwrap();
        let fills = place.run("inspect --json model", &[]).json()["tensors"].as_array().unwrap().iter().all(
            |tensor| {
                let shape = tensor["shape"].as_array().unwrap();
                shape.len() < 2 || shape[1].as_u64().unwrap() % 32 == 0
            },
        );
        if !fills {
            let line = "quantize model --group-size 32 --format gguf -o out.gguf";
            place.run(line, &[]).refused(&["do not fill"]);
            continue;
        }
        for settings in ["--bits 4", "--bits 8"] {
            let bits = settings.trim_start_matches("--bits ");
            let line = |rest: &str| format!("quantize model {settings} --group-size 32 {rest}");
            place.run(&line(&format!("-o there{bits}")), &[]).succeeded();
            place.run(&line(&format!("--format gguf -o out{bits}.gguf")), &[]).succeeded();
            assert_same_nll(&place, &format!("there{bits}"), &format!("out{bits}.gguf"), TOLERANCE);
            let export = format!("export out{bits}.gguf --format gptq -o back{bits}");
            if name.contains("rope-llama3") {
                // A GGUF holds only divisors, and these belong to no known model.
                place.run(&export, &[]).refused(&["rotary divisors"]);
                continue;
            }
            place.run(&export, &[]).succeeded();
            assert_same_nll(&place, &format!("there{bits}"), &format!("back{bits}"), TOLERANCE);
        }
    }
}

#[test]
fn float_weights_become_a_gguf_and_a_directory_again() {
    for name in ["llama/base", "llama/tied-bf16", "families/qwen2", "families/phi3"] {
        let place = Workplace::new();
        let report = place.run("export --format gguf -o model.gguf --json", &[fixture(name).as_ref()]).json();
        assert_eq!(report["exact"], 0, "{report}");
        place.run("export model.gguf --format huggingface -o back", &[]).succeeded();
        let (before, after) = (tensors(&fixture(name)), tensors(&place.path("back")));
        let is_matrix = |name: &&String| name.ends_with("proj.weight") || name.contains("embed");
        let mut matrices = before.keys().filter(is_matrix);
        assert!(matrices.clone().count() > 8);
        assert!(matrices.all(|tensor| before[tensor] == after[tensor]), "{name}");
        copy_tree(&fixture(name), &place.path("model"));
        assert_same_nll(&place, "model", "back", TOLERANCE);
    }
}

#[test]
fn an_exported_tuned_model_gives_the_numbers_that_were_measured() {
    let place = place_with("quantize --group-size 32 -o model", &fixture("llama/base"));
    let training = Training::new(&place.path("model"), "max_steps = 2\neval_steps = 0\nclip = 5.0");
    training.finetune("run", &[]).succeeded();
    let place = &training.place;
    place.run("export run/final --format gguf -o tuned.gguf", &[]).succeeded();
    place.run("export run/final --format compressed-tensors -o tuned", &[]).succeeded();
    assert_same_nll(place, "run/final", "tuned.gguf", TOLERANCE);
    assert_same_nll(place, "run/final", "tuned", TOLERANCE);
}

#[test]
fn large_models_are_written_in_shards() {
    let place = place_with("quantize --group-size 32 -o whole", &fixture("llama/base"));
    let line = "quantize --group-size 32 --max-shard-size 20KB -o shards";
    place.run(line, &[fixture("llama/base").as_ref()]).succeeded();
    assert_same_tensors(&place.path("whole"), &place.path("shards"));
    place.run("export whole --format gptq --max-shard-size 20KB -o exported", &[]).succeeded();
    assert_same_files(&place.path("shards"), &place.path("exported"));
    let files = tree(&place.path("shards"));
    let shards: Vec<&PathBuf> =
        files.keys().filter(|name| name.extension().is_some_and(|e| e == "safetensors")).collect();
    let of = shards.len();
    assert!(of > 2, "{shards:?}");
    assert_eq!(shards[0], Path::new(&format!("model-00001-of-{of:05}.safetensors")));
    let index: Value = serde_json::from_slice(&files[Path::new("model.safetensors.index.json")]).unwrap();
    let total: usize = tensors(&place.path("shards")).values().map(Vec::len).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), tensors(&place.path("whole")).len());
    // A shard is larger than that only if it holds a single tensor.
    for shard in shards {
        let shard = safetensors::SafeTensors::deserialize(&files[shard]).unwrap();
        let bytes: usize = shard.tensors().iter().map(|(_, view)| view.data().len()).sum();
        assert!(bytes <= 20_000 || shard.len() == 1);
    }
    assert_same_nll(&place, "whole", "shards", 0.0);
    place.run("export shards --format gptq -o one", &[]).succeeded();
    assert_same_files(&place.path("whole"), &place.path("one"));
}

#[test]
fn a_model_that_a_format_cannot_hold_is_refused_and_requantized_on_request() {
    let base = fixture("llama/base");
    let place = place_with("quantize --bits 3 --group-size 32 -o three", &base);
    place.run("quantize --method nf4 --group-size 32 -o nf4", &[base.as_ref()]).succeeded();
    place.run("quantize --group-size 24 -o odd", &[base.as_ref()]).succeeded();
    place.run("quantize --bits 8 --group-size 32 --asymmetric -o eight", &[base.as_ref()]).succeeded();
    let q4_1 = fixture("runs/q4_1.gguf").display().to_string();
    let cases = [
        ("three --format gguf -o out.gguf".to_string(), "3 bits, not 4"),
        ("nf4 --format gptq -o out".to_string(), "codebook"),
        ("nf4 --format gguf -o out.gguf".to_string(), "codebook"),
        ("odd --format gguf -o out.gguf".to_string(), "groups of 24"),
        ("eight --format gguf -o out.gguf".to_string(), "zero points"),
        ("three --format awq -o out".to_string(), "3 bits, not 4"),
        ("three --format huggingface -o out".to_string(), "expanded to f16 are rounded"),
        (format!("{q4_1} --format gptq -o out"), "not a zero point"),
    ];
    let left = |place: &Workplace| {
        let names = std::fs::read_dir(place.path("")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for (args, expected) in cases {
        let before = left(&place);
        assert_refused(&place, &format!("export {args}"), expected, "--allow-lossy");
        assert_eq!(before, left(&place), "{args}");
        let report = place.run(&format!("export {args} --allow-lossy --json"), &[]).json();
        let out = report["output"].as_str().unwrap();
        assert_eq!(report["exact"], 0, "{args}: {report}");
        let model = args.split(' ').next().unwrap();
        assert_same_nll(&place, model, out, 2.0);
        let out = place.path(out);
        if out.is_dir() { std::fs::remove_dir_all(out).unwrap() } else { std::fs::remove_file(out).unwrap() }
    }
}

#[test]
fn wrong_use_of_export_is_one_clear_error() {
    let place = place_with("quantize --group-size 32 -o model", &fixture("llama/base"));
    place.run("quantize --group-size 16 -o opt", &[fixture("families/opt").as_ref()]).succeeded();
    let base = fixture("llama/base").display().to_string();
    let q4_0 = fixture("runs/q4_0.gguf").display().to_string();
    let cases = [
        ("model --format gguf -o out".to_string(), "out will be a GGUF file"),
        ("model --format gptq -o out.gguf".to_string(), "will be a directory"),
        (format!("{base} --format gptq -o out"), "no quantized weights"),
        (format!("{q4_0} --format gguf -o out.gguf"), "GGUF already"),
        ("model --format gguf --group-size 32 -o out.gguf".to_string(), "--group-size with gguf"),
        ("model --format gptq --group-size 0 -o out".to_string(), "group_size is 0"),
        ("model --format gptq -o model".to_string(), "exists already"),
        ("opt --format gguf -o out.gguf".to_string(), "OPTForCausalLM"),
        ("nowhere --format gptq -o out".to_string(), "nowhere"),
    ];
    for (args, expected) in cases {
        place.run(&format!("export {args}"), &[]).refused(&[expected]);
        assert!(!place.path("out").exists() && !place.path("out.gguf").exists(), "{args}");
    }
    let usage = place.run("export model --format gptq -o out --max-shard-size much", &[]);
    assert_eq!(usage.code, Some(2));
    let line = "quantize --format gguf --group-size 32 --asymmetric --bits 8 -o out.gguf";
    place.run(line, &[fixture("llama/base").as_ref()]).refused(&["GGUF does not hold"]);
    let line = "quantize --format gguf --group-size 24 -o out.gguf";
    place.run(line, &[fixture("llama/base").as_ref()]).refused(&["GGUF does not hold"]);
}
