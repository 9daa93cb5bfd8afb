//! A copy of a Hugging Face directory in which only the scales differ, and its files beside the weights.

use std::fs;
use std::path::Path;

use super::directory::HuggingFace;
use crate::arch::block_of;
use crate::arch::hf::CONFIG_FILE;
use crate::checkpoint::weight::ScaleSource;
use crate::error::{Error, Result};
use crate::storage::staging::{self, Staging};

/// Copies the directory with other scales.
pub fn save(source: &HuggingFace, out: &Path, scales: &mut ScaleSource) -> Result<()> {
    let staging = Staging::new(out)?;
    copy_other_files(source, staging.path(), &[CONFIG_FILE])?;
    staging::write_bytes(&staging.path().join(CONFIG_FILE), &source.config_bytes)?;
    for (index, file) in source.shards.files().iter().enumerate() {
        let mut ranges = Vec::new();
        for name in source.packed_names().filter(|name| block_of(name).is_some()) {
            let layer = source.layer(name)?;
            for (part, tensor) in layer.tuned_tensors().into_iter().enumerate() {
                let position = source.shards.position(tensor.name).filter(|(file, _)| *file == index);
                ranges.extend(position.map(|(_, range)| (range, (name, part))));
            }
        }
        ranges.sort_by_key(|(range, _)| range.start);
        let to = staging.path().join(file.name()?);
        // The parts of a linear mostly lie together: its scales are asked for once then.
        let (mut last, mut parts) = ("", vec![]);
        staging::copy_with_replacements(&file.bytes, &to, &ranges, |&(name, part)| {
            if last != name {
                parts = source.layer(name)?.tuned_bytes(&scales(name)?)?;
                last = name;
            }
            Ok(std::mem::take(&mut parts[part]))
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
