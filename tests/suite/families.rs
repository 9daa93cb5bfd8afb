use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::training::Training;
use crate::support::{Workplace, fixture};

/// Allows for f32 arithmetic in another order.
const TOLERANCE: f64 = 1e-4;

fn families() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture("families")).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    assert!(found.len() >= 20, "{found:?}");
    found
}

fn tensors(model: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(model.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

#[test]
fn every_family_is_quantized_and_trained_and_only_scales_differ() {
    let words = ["the", "best", "of", "times", "it", "was", "age", "wisdom", "light", "darkness", "hope"];
    let text: String =
        (0..1000).map(|i: usize| format!("{} ", words[(i * i + i / 7) % words.len()])).collect();
    for family in families() {
        for method in ["rtn", "gptq"] {
            let place = Workplace::new();
            let text = place.write("text.txt", &text);
            let mut line = format!("quantize --method {method} --group-size 16 --device cpu --json -o model");
            if method != "rtn" {
                let text = text.display();
                line += &format!(" --calibration {text} --calibration-samples 4 --calibration-length 64");
            }
            place.run(&line, &[family.as_ref()]).json();
            let model = place.path("model");
            let report = place.run("inspect --json model", &[]).json();
            let trained = report["trained_weights"].as_u64().unwrap() as usize;

            let training = Training::new(&model, "max_steps = 2");
            let report = training.finetune("run", &["--json", "--quiet"]).json();
            let nll = |report: &Value| report["nll"].as_f64().unwrap();
            let (before, last) = (nll(&report["before"]), nll(&report["final"]));
            assert!(before.is_finite() && last.is_finite() && before != last, "{line}: {report}");
            let (old, new) = (tensors(&model), tensors(&training.out("run/final")));
            let changed: Vec<&String> = old.keys().filter(|name| old[*name] != new[*name]).collect();
            assert!(changed.iter().all(|name| name.ends_with(".scales")), "{line}: {changed:?}");
            assert!(changed.len() == trained && trained >= 8, "{line}: {trained} trained, {changed:?}");
        }
    }
}

/// llama.cpp has no sliding windows for some families, so that only sequences within the windows are compared.
#[test]
fn a_gguf_gives_the_numbers_of_its_directory_in_every_family() {
    let mut found = 0;
    for directory in families() {
        let file = directory.with_extension("gguf");
        if !file.exists() {
            continue;
        }
        found += 1;
        let text = std::fs::read_to_string(directory.join("expected.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        let short = |case: &&Value| (2..=8).contains(&case["input_ids"].as_array().unwrap().len());
        let cases: Vec<&Value> = cases.iter().filter(short).collect();
        let place = Workplace::new();
        let rows = cases.iter().map(|case| format!("{}\n", json!({"input_ids": case["input_ids"]})));
        let rows = place.write("rows.jsonl", rows.collect::<String>());
        let report =
            place.run("eval --json --device cpu", &[file.as_ref(), "--score".as_ref(), rows.as_ref()]).json();
        let sequences = report["sequences"].as_array().unwrap();
        assert!(!sequences.is_empty() && sequences.len() == cases.len());
        for (sequence, case) in sequences.iter().zip(&cases) {
            let nll = |value: &Value| value["token_nll"].as_array().unwrap().clone();
            for (got, want) in nll(sequence).iter().zip(nll(case)) {
                let error = (got.as_f64().unwrap() - want.as_f64().unwrap()).abs();
                assert!(error <= TOLERANCE, "{}: {got}, expected {want}", file.display());
            }
        }
    }
    assert!(found >= 13, "only {found} files");
}
