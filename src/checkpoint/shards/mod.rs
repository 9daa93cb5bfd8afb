//! The tensors of a Hugging Face directory, whether they lie in one file or in shards with an index, of safetensors
//! or of PyTorch. Files are mapped, not read. Knows no tensor's meaning.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::safetensors::{self, INDEX_FILE, SINGLE_FILE};
use super::tensor::{StoredTensor, TensorPlace, missing};
use super::{float, pytorch};
use crate::error::{Error, Result};
use crate::storage::pages::{self, MappedFile};

/// The tensors of a directory.
pub struct Shards {
    directory: PathBuf,
    files: Vec<MappedFile>,
    /// The index of each tensor's file, and its place there.
    tensors: BTreeMap<String, (usize, TensorPlace)>,
    /// The names in the files, of tensors that have another name here.
    stored_names: BTreeMap<String, String>,
}

impl Shards {
    /// Maps the directory's files of weights.
    ///
    /// # Errors
    /// No file of weights; an index that is damaged, names a file outside the directory, a missing
    /// shard or a tensor its shard does not hold; a damaged header.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut shards = Self {
            directory: directory.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            stored_names: BTreeMap::new(),
        };
        // The order in which transformers looks for them.
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

    /// Whether the files are PyTorch's, in which nothing can be replaced: they hold checksums.
    pub fn are_pickled(&self) -> bool {
        self.files.iter().any(|file| pytorch::is_file(&file.path))
    }

    /// Renames every tensor from the file's name to the one that `name` gives for it.
    ///
    /// # Errors
    /// Two tensors get the same name.
    pub fn rename(&mut self, name: impl Fn(&str) -> String) -> Result<()> {
        for (old, place) in std::mem::take(&mut self.tensors) {
            let new = name(&old);
            if self.tensors.insert(new.clone(), place).is_some() {
                return Err(Error::damaged(&self.directory, format!("two tensors are `{new}`")));
            }
            if new != old {
                self.stored_names.insert(new, old);
            }
        }
        Ok(())
    }

    /// The name of a tensor in its file.
    pub fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.stored_names.get(name).map_or(name, String::as_str)
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, byte-sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Option<StoredTensor<'_>> {
        let (name, (file, place)) = self.tensors.get_key_value(name)?;
        let file = self.files.get(*file)?;
        let bytes = file.bytes.get(place.range.clone())?;
        Some(StoredTensor { path: &file.path, name, dtype: place.dtype, shape: &place.shape, bytes })
    }

    /// # Errors
    /// No tensor has that name.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>> {
        self.get(name).ok_or_else(|| missing(&self.directory, name, self.names()))
    }

    /// The index of the tensor's file, and the range of its bytes there.
    pub fn position(&self, name: &str) -> Option<(usize, Range<usize>)> {
        self.tensors.get(name).map(|(file, place)| (*file, place.range.clone()))
    }

    /// Whether two tensors hold the same numbers. Reads them in chunks and releases the pages.
    pub fn have_same_values(&self, a: &StoredTensor<'_>, b: &StoredTensor<'_>) -> bool {
        const VALUES: usize = 1 << 20;
        let (Ok(of_a), Ok(of_b)) = (a.float_type(), b.float_type()) else { return false };
        let chunk = |dtype| VALUES * float::bytes_per_value(dtype);
        let mut both = a.bytes.chunks(chunk(of_a)).zip(b.bytes.chunks(chunk(of_b)));
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

    /// Maps one file and adds its tensors, without those that an index says are in another file.
    fn add(&mut self, path: &Path, indexed: Option<Indexed<'_>>) -> Result<()> {
        let opened = MappedFile::open(path)?;
        let mut places = match pytorch::is_file(path) {
            true => pytorch::places(path, &opened.bytes)?,
            false => safetensors::places(path, &opened.bytes)?,
        };
        let file = self.files.len();
        if let Some(Indexed { index, here, anywhere }) = indexed {
            if let Some(name) = here.iter().find(|name| !places.contains_key(**name)) {
                let what = format!("{} says it is in this file, but it is not", index.display());
                return Err(Error::tensor(path, *name, what));
            }
            places
                .retain(|name, _| here.binary_search(&name.as_str()).is_ok() || !anywhere.contains_key(name));
        }
        self.tensors.extend(places.into_iter().map(|(name, place)| (name, (file, place))));
        self.files.push(opened);
        Ok(())
    }
}

/// An index of shards, seen from one of them.
struct Indexed<'a> {
    index: &'a Path,
    /// The byte-sorted names of the tensors in this file.
    here: &'a [&'a str],
    /// The file of every tensor.
    anywhere: &'a BTreeMap<String, String>,
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

/// The path of a shard. An index may only name files in its own directory. (Where such a file is a symlink, it is
/// followed: the user made it, or the hub's cache.)
fn shard_path(index: &Path, directory: &Path, file: &str) -> Result<PathBuf> {
    let is_plain = !file.is_empty() && !file.contains(['/', '\\', '\0', ':']) && file != "." && file != "..";
    if !is_plain {
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

/// The only safetensors file of a directory: old GPTQ checkpoints have one of any name.
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
