//! Safetensors files: one file, or shards with an index, mapped lazily; and a streaming writer.
//! Knows no tensor's meaning.
//!
//! Format: <https://huggingface.co/docs/safetensors>. The header's own rules (its length is bounded,
//! offsets are contiguous and cover the file, sizes follow from shapes) are checked by the
//! `safetensors` crate; what a directory of them may look like is checked here.

mod writer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
pub use safetensors::Dtype;
use safetensors::SafeTensors;
use serde::Deserialize;

pub use writer::{ShardWriter, Writer};

use super::{float, publish};
use crate::error::{Error, Result, nearest};
use crate::quant::FloatType;

pub const SINGLE_FILE: &str = "model.safetensors";
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The tensors of a directory, wherever they lie.
pub struct Shards {
    directory: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
}

pub struct MappedFile {
    pub path: PathBuf,
    pub bytes: Mmap,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// In the file's bytes.
    range: Range<usize>,
}

/// One tensor's bytes as they lie in the file.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub path: &'a Path,
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl Shards {
    /// # Errors
    /// No safetensors file; an index that is damaged, names a file outside the directory, a missing
    /// shard or a tensor its shard does not hold; a damaged header.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut shards =
            Self { directory: directory.to_path_buf(), files: Vec::new(), tensors: BTreeMap::new() };
        // The order transformers looks in: one file first, then the index.
        let single = directory.join(SINGLE_FILE);
        let index = directory.join(INDEX_FILE);
        if single.exists() {
            shards.add(&single, None)?;
        } else if index.exists() {
            let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (tensor, file) in read_index(&index)? {
                by_file.entry(file).or_default().push(tensor);
            }
            for (file, tensors) in &by_file {
                shards.add(&shard_path(&index, directory, file)?, Some(tensors))?;
            }
        } else {
            shards.add(&only_file(directory)?, None)?;
        }
        Ok(shards)
    }

    pub fn files(&self) -> &[MappedFile] {
        &self.files
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Byte-sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        let file = self.files.get(entry.file)?;
        let bytes = file.bytes.get(entry.range.clone())?;
        Some(Tensor { path: &file.path, name, dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    /// # Errors
    /// No tensor has that name.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        self.get(name).ok_or_else(|| missing(&self.directory, name, self.names()))
    }

    /// Where the tensor's bytes lie: the index of its file and the range there.
    pub fn position(&self, name: &str) -> Option<(usize, Range<usize>)> {
        self.tensors.get(name).map(|entry| (entry.file, entry.range.clone()))
    }

    /// Maps one file and enters its tensors: all of them, or those the index gives to it.
    fn add(&mut self, path: &Path, wanted: Option<&[String]>) -> Result<()> {
        let bytes = publish::map(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| Error::damaged(path, format!("not a complete safetensors file: {e}")))?;
        let data = header + size_of::<u64>();
        let names = wanted.map_or_else(|| metadata.offset_keys(), <[String]>::to_vec);
        for name in names {
            let info = metadata.info(&name).ok_or_else(|| {
                Error::tensor(path, &name, format!("{INDEX_FILE} says it is in this file, but it is not"))
            })?;
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            let entry = Entry { file: self.files.len(), dtype: info.dtype, shape: info.shape.clone(), range };
            self.tensors.insert(name, entry);
        }
        self.files.push(MappedFile { path: path.to_path_buf(), bytes });
        Ok(())
    }
}

/// How a float type is called in these files.
pub fn dtype(float: FloatType) -> Dtype {
    match float {
        FloatType::F32 => Dtype::F32,
        FloatType::F16 => Dtype::F16,
        FloatType::BF16 => Dtype::BF16,
    }
}

impl Tensor<'_> {
    /// # Errors
    /// Not f32, f16 or bf16.
    pub fn float_type(&self) -> Result<FloatType> {
        match self.dtype {
            Dtype::F32 => Ok(FloatType::F32),
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::BF16 => Ok(FloatType::BF16),
            other => Err(Error::unsupported(
                format!("{}: tensor `{}` is stored as {other:?}", self.path.display(), self.name),
                "weights stored as F32, F16 or BF16 can be read",
            )),
        }
    }

    pub fn floats(&self) -> Result<Vec<f32>> {
        Ok(float::decode(self.float_type()?, self.bytes))
    }

    /// i32 or i64 values, the latter only where they fit.
    pub fn integers(&self) -> Result<Vec<i32>> {
        match self.dtype {
            Dtype::I32 => Ok(self.bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect()),
            Dtype::I64 => (self.bytes.as_chunks().0.iter())
                .map(|&b| i64::from_le_bytes(b).try_into().map_err(|_| self.wrong("a value exceeds 32 bits")))
                .collect(),
            other => Err(self.wrong(format!("expected integers (I32), got {other:?}"))),
        }
    }

    /// # Errors
    /// Another shape.
    pub fn expect_shape(&self, shape: &[usize]) -> Result<()> {
        match self.shape == shape {
            true => Ok(()),
            false => Err(self.wrong(format!("expected shape {shape:?}, got {:?}", self.shape))),
        }
    }

    pub fn wrong(&self, what: impl Into<String>) -> Error {
        Error::tensor(self.path, self.name, what)
    }
}

/// The error for a name nobody has, with the nearest one that exists.
pub fn missing<'a>(path: &Path, name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let hint =
        nearest(name, names).map(|near| format!(" (the nearest name is `{near}`)")).unwrap_or_default();
    Error::tensor(path, name, format!("not in the checkpoint{hint}"))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| Error::damaged(path, format!("not an index of tensors and their files: {e}")))?;
    match index.weight_map.is_empty() {
        true => Err(Error::damaged(path, "the index names no tensor")),
        false => Ok(index.weight_map),
    }
}

/// A shard is a plain file name: an index must not make us read elsewhere. (Where the file itself is
/// a symlink it is followed: that is the user's or the hub cache's doing.)
fn shard_path(index: &Path, directory: &Path, file: &str) -> Result<PathBuf> {
    let plain = !file.is_empty() && !file.contains(['/', '\\', '\0', ':']) && file != "." && file != "..";
    if !plain {
        return Err(Error::damaged(
            index,
            format!("names the shard {file:?}, which is not a plain file name"),
        ));
    }
    let path = directory.join(file);
    match path.exists() {
        true => Ok(path),
        false => {
            Err(Error::damaged(index, format!("names the shard `{file}`, which is not in the directory")))
        }
    }
}

/// For directories that name their one weight file otherwise, as old GPTQ checkpoints do.
fn only_file(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).map_err(Error::io(directory, "listing"))?;
    let mut found: Vec<PathBuf> = Vec::new();
    let mut pickled = false;
    for entry in entries {
        let path = entry.map_err(Error::io(directory, "listing"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        pickled |= name.starts_with("pytorch_model") && name.ends_with(".bin");
        if name.ends_with(".safetensors") {
            found.push(path.clone());
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) if !found.is_empty() => {
            Err(Error::damaged(directory, format!("{} safetensors files without {INDEX_FILE}", found.len())))
        }
        Err(_) if pickled => Err(Error::unsupported(
            format!("{}: weights only as pytorch_model.bin", directory.display()),
            "load the model in transformers and save it with `save_pretrained`, which writes safetensors",
        )),
        Err(_) => Err(Error::invalid(
            format!("{}: no {SINGLE_FILE} and no {INDEX_FILE}", directory.display()),
            "give a directory with config.json and safetensors files, or a .gguf file",
        )),
    }
}

#[cfg(test)]
mod tests;
