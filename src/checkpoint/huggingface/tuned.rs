//! A copy of a Hugging Face directory in which only trained tensors differ, and its files beside the weights.

use std::fs;
use std::path::Path;

use super::directory::HuggingFace;
use crate::arch::hf::CONFIG_FILE;
use crate::arch::{TensorKind, TrainedTensor, block_of};
use crate::checkpoint::weight::TunedSource;
use crate::error::{Error, Result};
use crate::storage::staging::{self, Staging};

/// A tensor that differs in the copy.
enum Tuned<'a> {
    /// A part of a quantized linear, by its number in `StoredLinear::tuned_tensors`.
    Part(&'a str, usize),
    /// A float tensor.
    Whole(&'a str),
}

/// Copies the directory with other scales and other values of `tensors`.
pub fn save(
    source: &HuggingFace,
    out: &Path,
    tensors: &[TrainedTensor],
    tuned: &mut TunedSource,
) -> Result<()> {
    let staging = Staging::new(out)?;
    copy_other_files(source, staging.path(), &[CONFIG_FILE])?;
    staging::write_bytes(&staging.path().join(CONFIG_FILE), &source.config_bytes)?;
    for (index, file) in source.shards.files().iter().enumerate() {
        let mut ranges = Vec::new();
        for name in source.packed_names().filter(|name| block_of(name).is_some()) {
            let layer = source.layer(name)?;
            for (part, tensor) in layer.tuned_tensors().into_iter().enumerate() {
                let position = source.shards.position(tensor.name).filter(|(file, _)| *file == index);
                ranges.extend(position.map(|(_, range)| (range, Tuned::Part(name, part))));
            }
        }
        for tensor in tensors.iter().filter(|tensor| tensor.kind != TensorKind::Minima) {
            let position = source.shards.position(&tensor.name).filter(|(file, _)| *file == index);
            ranges.extend(position.map(|(_, range)| (range, Tuned::Whole(tensor.name.as_str()))));
        }
        ranges.sort_by_key(|(range, _)| range.start);
        let to = staging.path().join(file.name()?);
        // The parts of a linear mostly lie together: its scales are asked for once then.
        let (mut last, mut parts) = ("", vec![]);
        staging::copy_with_replacements(&file.bytes, &to, &ranges, |each| match *each {
            Tuned::Part(name, part) => {
                if last != name {
                    let minima = TrainedTensor::minima_of(tensors, name);
                    let minima = minima.map(|minima| tuned(&minima.name)).transpose()?;
                    parts = source.layer(name)?.tuned_bytes(&tuned(name)?, minima.as_deref())?;
                    last = name;
                }
                Ok(std::mem::take(&mut parts[part]))
            }
            Tuned::Whole(name) => source.tensor(name)?.tuned_bytes(tuned(name)?),
        })?;
    }
    staging.publish()
}

/// Copies the directory's files, except its weights and `except`. Subdirectories are no part of a checkpoint; symlinks
/// are followed.
pub fn copy_other_files(source: &HuggingFace, to: &Path, except: &[&str]) -> Result<()> {
    let weights: Vec<_> = source.shards.files().iter().filter_map(|file| file.path.file_name()).collect();
    let directory = &source.directory;
    for entry in fs::read_dir(directory).map_err(Error::io(directory, "listing"))? {
        let entry = entry.map_err(Error::io(directory, "listing"))?;
        let (path, name) = (entry.path(), entry.file_name());
        let text = name.to_string_lossy();
        let is_left_out = weights.contains(&name.as_os_str())
            || except.contains(&text.as_ref())
            || is_other_weight_file(&text);
        let metadata = fs::metadata(&path).map_err(Error::io(&path, "reading"))?;
        if metadata.is_file() && !is_left_out {
            staging::copy_file(&path, &to.join(&name))?;
        }
    }
    Ok(())
}

/// Whether a file holds the same model's weights in another format. They are not quantized or not tuned, and a copy of
/// them beside the new ones would mislead.
fn is_other_weight_file(name: &str) -> bool {
    let is_pytorch =
        name.starts_with("pytorch_model") && (name.ends_with(".bin") || name.ends_with(".bin.index.json"));
    let is_consolidated = name.starts_with("consolidated.") && name.ends_with(".pth");
    let others = [".safetensors", ".gguf", ".h5", ".msgpack", ".onnx"];
    is_pytorch || is_consolidated || others.iter().any(|ending| name.ends_with(ending))
}
