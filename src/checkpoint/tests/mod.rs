//! Tests with the files of `tests/fixtures/checkpoints`.

mod mutating;
mod packages;
mod quantizing;
mod reading;
mod refusing;
mod saving;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::{Error, Result};
use crate::packed::{FloatType, Levels, PackedWeight};
use crate::quant::{self, QuantizeConfig};
use crate::storage::json;
use crate::storage::staging::Staging;

/// Written by `scripts/fixtures/checkpoints.py`; blocks.gguf by `scripts/fixtures/blocks.py`.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/checkpoints");
/// Those with ct-, awq- and mlx- by `scripts/fixtures/packages.py`. Their scales are f16.
const QUANTIZED: [&str; 13] = [
    "gptq-4bit-v1",
    "gptq-3bit-v2",
    "ct-w4-group",
    "ct-w4-asym-actorder",
    "ct-w8-channel-ignore",
    "ct-w3-asym",
    "ct-w4-head",
    "awq-gemm",
    "mlx-mixed",
    "q4_0.gguf",
    "q4_1.gguf",
    "q8_0.gguf",
    "blocks.gguf",
];
/// Fixtures whose scales are f32, or quantized.
const BITSANDBYTES: [&str; 2] = ["bnb-nf4-double", "bnb-fp4"];
const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

/// The values that another implementation expands the file's tensors to.
fn expected(name: &str) -> BTreeMap<String, Vec<f32>> {
    let stem = name.trim_end_matches(".gguf");
    let directory = tempfile::tempdir().unwrap();
    fs::copy(fixture(&format!("{stem}.expected.safetensors")), directory.path().join("model.safetensors"))
        .unwrap();
    let shards = shards::Shards::open(directory.path()).unwrap();
    let values: BTreeMap<_, _> = shards
        .names()
        .map(|name| (name.to_owned(), shards.tensor(name).unwrap().floats().unwrap()))
        .collect();
    assert_eq!(values.len(), 21);
    values
}

fn packed(checkpoint: &Checkpoint, name: &str) -> PackedWeight {
    match checkpoint.weight(name).unwrap() {
        Weight::Packed(packed) => packed,
        Weight::Dense { .. } => panic!("{name} is dense"),
    }
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// The files of a fixture, by their names in a saved copy.
fn original_files(name: &str) -> BTreeMap<String, Vec<u8>> {
    match fixture(name).is_dir() {
        true => files(&fixture(name)),
        false => BTreeMap::from([(name.to_owned(), fs::read(fixture(name)).unwrap())]),
    }
}

/// A copy of a fixture directory with its config changed.
fn with_config(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> Result<Checkpoint> {
    let directory = tempfile::tempdir().unwrap();
    for (file, bytes) in files(&fixture(name)) {
        fs::write(directory.path().join(file), bytes).unwrap();
    }
    let path = directory.path().join("config.json");
    let mut config = json::read_json(&path).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    Checkpoint::open(directory.path())
}
