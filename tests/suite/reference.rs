use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Workplace, fixture, has_device};

/// Allows for f32 arithmetic in another order. The models are random and have NLLs of about 5.
const TOLERANCE: f64 = 1e-4;

/// The file of expected numbers: in the directory of a model, or beside its file.
fn expected(model: &Path) -> PathBuf {
    if model.is_dir() { model.join("expected.json") } else { model.with_extension("expected.json") }
}

/// The tiny models, and the quantized checkpoints that other packages wrote.
fn models() -> Vec<PathBuf> {
    let entries =
        ["llama", "families", "checkpoints"].map(|folder| std::fs::read_dir(fixture(folder)).unwrap());
    let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut models: Vec<PathBuf> = paths.filter(|path| expected(path).exists()).collect();
    models.sort();
    assert!(models.len() >= 23, "only {} models found", models.len());
    models
}

/// Sequences of at least two tokens, with the NLL that transformers gives each token.
fn cases(model: &Path) -> Vec<(Value, Vec<f64>)> {
    let text = std::fs::read_to_string(expected(model)).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let numbers =
        |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let cases: Vec<_> = cases
        .iter()
        .map(|case| (case["input_ids"].clone(), numbers(&case["token_nll"])))
        .filter(|(_, nll)| !nll.is_empty())
        .collect();
    assert!(cases.len() >= 2, "{}: only {} sequences", model.display(), cases.len());
    cases
}

fn agrees_with_transformers(device: &str) {
    for model in models() {
        let cases = cases(&model);
        let place = Workplace::new();
        let rows =
            cases.iter().map(|(ids, _)| format!("{}\n", json!({ "input_ids": ids }))).collect::<String>();
        let rows = place.write("cases.jsonl", rows);
        let line = format!("eval --json --device {device}");
        let report = place.run(&line, &[model.as_ref(), "--score".as_ref(), rows.as_ref()]).json();
        let sequences = report["sequences"].as_array().unwrap();
        assert_eq!(sequences.len(), cases.len());
        for (sequence, (ids, expected)) in sequences.iter().zip(&cases) {
            let got = sequence["token_nll"].as_array().unwrap();
            assert_eq!(
                (got.len(), sequence["tokens"].as_u64().unwrap() as usize),
                (expected.len(), expected.len())
            );
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                let got = got.as_f64().unwrap();
                assert!(
                    (got - expected).abs() <= TOLERANCE,
                    "{} on {device}, {ids}, token {}: {got}, expected {expected}",
                    model.display(),
                    i + 1
                );
            }
            let mean = expected.iter().sum::<f64>() / expected.len() as f64;
            assert!((sequence["nll"].as_f64().unwrap() - mean).abs() <= TOLERANCE);
        }
    }
}

#[test]
fn every_tiny_model_scores_as_in_transformers_on_cpu() {
    agrees_with_transformers("cpu");
}

#[test]
fn every_tiny_model_scores_as_in_transformers_on_wgpu() {
    if has_device("wgpu") {
        agrees_with_transformers("wgpu");
    }
}

#[test]
fn every_tiny_model_scores_as_in_transformers_on_cuda() {
    if has_device("cuda") {
        agrees_with_transformers("cuda");
    }
}
