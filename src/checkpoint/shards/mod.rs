//! The tensors of a Hugging Face directory, wherever in its files they lie: one file, or shards with an index, of
//! safetensors or of PyTorch. Mapped lazily. Knows no tensor's meaning.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::Deserialize;

use super::safetensors::{self, Dtype, INDEX_FILE, SINGLE_FILE};
use super::{float, pytorch};
use crate::error::{Error, Result, nearest};
use crate::packed::FloatType;
use crate::storage::pages;

/// The tensors of a directory.
pub struct Shards {
    directory: PathBuf,
    files: Vec<MappedFile>,
    /// Each with the index of its file.
    tensors: BTreeMap<String, (usize, Place)>,
}

pub struct MappedFile {
    pub path: PathBuf,
    pub file: File,
    pub bytes: Mmap,
}

/// Where and how a tensor lies in a file: row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In the file's bytes, as many as type and shape say.
    pub range: Range<usize>,
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
    /// No file of weights; an index that is damaged, names a file outside the directory, a missing
    /// shard or a tensor its shard does not hold; a damaged header.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut shards =
            Self { directory: directory.to_path_buf(), files: Vec::new(), tensors: BTreeMap::new() };
        // The order transformers looks in.
        for (single, index) in [(SINGLE_FILE, INDEX_FILE), (pytorch::SINGLE_FILE, pytorch::INDEX_FILE)] {
            let (single, index) = (directory.join(single), directory.join(index));
            if single.exists() {
                shards.add(&single, None)?;
                return Ok(shards);
            }
            if index.exists() {
                shards.add_shards(&index)?;
                return Ok(shards);
            }
        }
        shards.add(&only_file(directory)?, None)?;
        Ok(shards)
    }

    pub fn files(&self) -> &[MappedFile] {
        &self.files
    }

    /// Whether the files are PyTorch's, which nothing can be replaced in: they hold checksums.
    pub fn are_pickled(&self) -> bool {
        self.files.iter().any(|file| pytorch::is_file(&file.path))
    }

    /// Has every tensor under the name that `name` gives it from the file's.
    ///
    /// # Errors
    /// Two tensors get one name.
    pub fn rename(&mut self, name: impl Fn(&str) -> String) -> Result<()> {
        for (old, place) in std::mem::take(&mut self.tensors) {
            let new = name(&old);
            if self.tensors.insert(new.clone(), place).is_some() {
                return Err(Error::damaged(&self.directory, format!("two tensors are `{new}`")));
            }
        }
        Ok(())
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Byte-sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, (file, place)) = self.tensors.get_key_value(name)?;
        let file = self.files.get(*file)?;
        let bytes = file.bytes.get(place.range.clone())?;
        Some(Tensor { path: &file.path, name, dtype: place.dtype, shape: &place.shape, bytes })
    }

    /// # Errors
    /// No tensor has that name.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        self.get(name).ok_or_else(|| missing(&self.directory, name, self.names()))
    }

    /// Where the tensor's bytes lie: the index of its file and the range there.
    pub fn position(&self, name: &str) -> Option<(usize, Range<usize>)> {
        self.tensors.get(name).map(|(file, place)| (*file, place.range.clone()))
    }

    /// Whether two tensors hold the same numbers. Reads them piece by piece and gives the pages back.
    pub fn have_same_values(&self, a: &Tensor<'_>, b: &Tensor<'_>) -> bool {
        const PIECE: usize = 1 << 20;
        let (Ok(of_a), Ok(of_b)) = (a.float_type(), b.float_type()) else { return false };
        let pieces = |dtype| PIECE * float::bytes_per_value(dtype);
        let mut both = a.bytes.chunks(pieces(of_a)).zip(b.bytes.chunks(pieces(of_b)));
        a.shape == b.shape
            && both.all(|(a, b)| {
                self.files.iter().for_each(|file| pages::release(&file.bytes));
                of_a == of_b && a == b || float::decode(of_a, a) == float::decode(of_b, b)
            })
    }

    fn add_shards(&mut self, index: &Path) -> Result<()> {
        let file_of = read_index(index)?;
        let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &file_of {
            by_file.entry(file).or_default().push(tensor);
        }
        for (file, tensors) in by_file {
            let indexed = Indexed { index, here: &tensors, anywhere: &file_of };
            self.add(&shard_path(index, &self.directory, file)?, Some(indexed))?;
        }
        Ok(())
    }

    /// Maps one file and adds its tensors. Those that an index says are in another file are left out.
    fn add(&mut self, path: &Path, indexed: Option<Indexed<'_>>) -> Result<()> {
        let (opened, bytes) = pages::open_mapped(path)?;
        let mut places = match pytorch::is_file(path) {
            true => pytorch::places(path, &bytes)?,
            false => safetensors::places(path, &bytes)?,
        };
        let file = self.files.len();
        if let Some(Indexed { index, here, anywhere }) = indexed {
            if let Some(name) = here.iter().find(|name| !places.contains_key(**name)) {
                let index = index.file_name().unwrap_or_default().to_string_lossy();
                let what = format!("{index} says it is in this file, but it is not");
                return Err(Error::tensor(path, *name, what));
            }
            places
                .retain(|name, _| here.binary_search(&name.as_str()).is_ok() || !anywhere.contains_key(name));
        }
        self.tensors.extend(places.into_iter().map(|(name, place)| (name, (file, place))));
        self.files.push(MappedFile { path: path.to_path_buf(), file: opened, bytes });
        Ok(())
    }
}

/// An index of shards, seen from one of them.
struct Indexed<'a> {
    index: &'a Path,
    /// Byte-sorted names of the tensors in this file.
    here: &'a [&'a str],
    /// The file of every tensor.
    anywhere: &'a BTreeMap<String, String>,
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

    /// Whether it holds floats, all of them 0.
    pub fn is_zero(&self) -> bool {
        self.floats().is_ok_and(|values| values.iter().all(|value| *value == 0.0))
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
    for entry in entries {
        let path = entry.map_err(Error::io(directory, "listing"))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            found.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) if !found.is_empty() => {
            Err(Error::damaged(directory, format!("{} safetensors files without {INDEX_FILE}", found.len())))
        }
        Err(_) => Err(Error::invalid(
            format!(
                "{}: none of {SINGLE_FILE}, {INDEX_FILE}, {}, {}",
                directory.display(),
                pytorch::SINGLE_FILE,
                pytorch::INDEX_FILE
            ),
            "give a directory with config.json and such weights, or a .gguf file",
        )),
    }
}

#[cfg(test)]
mod tests;
