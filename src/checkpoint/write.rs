//! Writes a Hugging Face directory again with its block linears quantized, in a given scheme.

use std::path::Path;

use serde_json::Value;

use super::hf_config::{CONFIG_FILE, read_json};
use super::huggingface::{HuggingFace, module};
use super::publish::Staging;
use super::safetensors::{INDEX_FILE, SINGLE_FILE, Writer};
use super::scheme::{Packing, QUANTIZE_CONFIG_FILE};
use super::{Checkpoint, Format};
use crate::error::{Error, Result};
use crate::kernels::packed::PackedWeight;

/// Streams `source` into the new directory `out`: every linear of the decoder blocks goes through
/// `quantize`, every other tensor and file is copied as it is. `quantize` is called once per linear, in
/// byte order of the names; one weight is in memory at a time.
///
/// # Errors
/// `source` is no dense Hugging Face directory; `out` exists; `quantize` failed or returned something
/// other than `packing` can hold. Nothing is left behind.
pub fn write_quantized(
    source: &Checkpoint,
    out: &Path,
    packing: &dyn Packing,
    quantize: &mut dyn FnMut(&str) -> Result<PackedWeight>,
) -> Result<()> {
    let directory = dense_directory(source)?;
    let staging = Staging::new(out)?;
    write_weights(source, directory, &staging.path().join(SINGLE_FILE), packing, quantize)?;
    write_configs(directory, staging.path(), packing)?;
    directory.copy_other_files(staging.path(), &[CONFIG_FILE, QUANTIZE_CONFIG_FILE, INDEX_FILE])?;
    staging.publish()
}

/// Whether a scheme can hold all linears of a model, before anything is done.
///
/// # Errors
/// The source is no dense Hugging Face directory; a linear whose shape does not fit, by its name.
pub fn check_packing(source: &Checkpoint, packing: &dyn Packing) -> Result<()> {
    dense_directory(source)?;
    for name in source.config().block_linears() {
        if let &[out, input] = &source.shape(&name)?[..] {
            packing
                .describe([out, input])
                .map_err(|what| Error::invalid(format!("{name}: {what}"), UNFIT))?;
        }
    }
    Ok(())
}

const UNFIT: &str = "use another group size, or another --format";

fn dense_directory(source: &Checkpoint) -> Result<&HuggingFace> {
    source.huggingface().filter(|_| source.format() == Format::HuggingFace).ok_or_else(|| {
        Error::invalid(
            format!("{} is {} and quantized as it is", source.path().display(), source.format()),
            "quantize the original Hugging Face checkpoint (f32, f16 or bf16), or use this one directly",
        )
    })
}

fn write_weights(
    source: &Checkpoint,
    directory: &HuggingFace,
    to: &Path,
    packing: &dyn Packing,
    quantize: &mut dyn FnMut(&str) -> Result<PackedWeight>,
) -> Result<()> {
    let linears = source.config().block_linears();
    let is_linear = |name: &str| linears.binary_search_by(|linear| linear.as_str().cmp(name)).is_ok();
    let wrong = |name: &str, what: String| Error::tensor(source.path(), name, what);
    let mut header = Vec::new();
    for name in directory.shards().names() {
        let tensor = directory.shards().tensor(name)?;
        match tensor.shape {
            &[out, input] if is_linear(name) => {
                let parts = packing.describe([out, input]).map_err(|what| wrong(name, what))?;
                let named = |(part, dtype, shape)| (format!("{}{part}", module(name)), dtype, shape);
                header.extend(parts.into_iter().map(named));
            }
            _ => header.push((name.to_owned(), tensor.dtype, tensor.shape.to_vec())),
        }
    }
    // Widest types first, so that every tensor is aligned (the order of the Python writer).
    header.sort_by_key(|(_, dtype, _)| std::cmp::Reverse(dtype.bitsize()));
    let mut writer = Writer::create(to, &header)?;
    for name in directory.shards().names().filter(|name| !is_linear(name)) {
        writer.write(name, directory.shards().tensor(name)?.bytes)?;
    }
    for name in &linears {
        let packed = quantize(name)?;
        let shape = [packed.out_features, packed.in_features];
        if source.shape(name)? != shape {
            return Err(wrong(name, format!("the quantizer gave a weight of shape {shape:?}")));
        }
        let parts = packing.describe(shape).map_err(|what| wrong(name, what))?;
        let bytes = packing.encode(&packed).map_err(|what| wrong(name, what))?;
        for ((part, ..), bytes) in parts.iter().zip(bytes) {
            writer.write(&format!("{}{part}", module(name)), &bytes)?;
        }
    }
    writer.finish()
}

fn write_configs(source: &HuggingFace, to: &Path, packing: &dyn Packing) -> Result<()> {
    let settings = packing.settings();
    let mut config = read_json(&source.directory().join(CONFIG_FILE))?;
    if let Some(config) = config.as_object_mut() {
        config.insert("quantization_config".into(), settings.clone());
    }
    write_json(&to.join(CONFIG_FILE), &config)?;
    match packing.has_own_config() {
        true => write_json(&to.join(QUANTIZE_CONFIG_FILE), &settings),
        false => Ok(()),
    }
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    let mut file = std::fs::File::create_new(path).map_err(Error::io(path, "creating"))?;
    let mut text = serde_json::to_vec_pretty(json)
        .map_err(|e| Error::damaged(path, format!("cannot be written: {e}")))?;
    text.push(b'\n');
    std::io::Write::write_all(&mut file, &text).map_err(Error::io(path, "writing"))?;
    file.sync_all().map_err(Error::io(path, "syncing"))
}
