//! Writes safetensors files tensor by tensor, in any order: the header is known before the first
//! byte of data, so no data has to be kept in memory.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use super::{INDEX_FILE, SINGLE_FILE};
use crate::error::{Error, Result};
use crate::storage::json::write_json;
use crate::storage::placed::PlacedFile;

/// A file that is being written.
pub struct Writer(PlacedFile);

/// Name, type and shape of a tensor.
pub type TensorDescription = (String, Dtype, Vec<usize>);

impl Writer {
    /// Creates the file and writes its header; the tensors lie in the order given. Continues an unfinished file, as
    /// [`PlacedFile::create`] does.
    ///
    /// # Errors
    /// Two tensors share a name, or a size overflows.
    pub fn create(path: &Path, tensors: &[TensorDescription]) -> Result<Self> {
        // transformers refuses files that do not name the framework of their tensors.
        let (header, ends) =
            header(&[("format", "pt")], tensors).map_err(|what| Error::damaged(path, what))?;
        let starts = [header.len() as u64].into_iter().chain(ends.iter().copied());
        let places = tensors.iter().zip(starts).zip(&ends);
        let places = places.map(|(((name, ..), start), end)| (name.clone(), start..*end)).collect();
        Ok(Self(PlacedFile::create(path, &header, places, 0)?))
    }

    /// Whether the tensor is still to be written.
    pub fn is_due(&self, name: &str) -> bool {
        self.0.is_due(name)
    }

    /// Writes a tensor.
    ///
    /// # Errors
    /// A name that is not in the header or was written before, or another number of bytes.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.0.write(name, bytes)
    }

    /// Syncs everything to the disk.
    ///
    /// # Errors
    /// A tensor is still missing, or the disk failed.
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

/// The tensors of a directory: one file, or shards with an index where that would be too large.
pub struct ShardWriter {
    directory: PathBuf,
    shards: Vec<Writer>,
    /// Tensor → its shard.
    places: BTreeMap<String, usize>,
    total_bytes: usize,
}

impl ShardWriter {
    /// Creates the files. None holds more than `max_bytes`, unless a single tensor does.
    ///
    /// # Errors
    /// Those of [`Writer::create`].
    pub fn create(directory: &Path, tensors: Vec<TensorDescription>, max_bytes: u64) -> Result<Self> {
        let (mut total_bytes, mut in_shard) = (0usize, 0usize);
        let mut shards: Vec<Vec<TensorDescription>> = vec![vec![]];
        let mut places = BTreeMap::new();
        for tensor in tensors {
            // A size that overflows is refused where the file is created.
            let bytes = bytes(tensor.1, &tensor.2).unwrap_or(usize::MAX);
            if in_shard > 0 && in_shard.saturating_add(bytes) as u64 > max_bytes {
                shards.push(vec![]);
                in_shard = 0;
            }
            in_shard = in_shard.saturating_add(bytes);
            total_bytes = total_bytes.saturating_add(bytes);
            places.insert(tensor.0.clone(), shards.len() - 1);
            if let Some(shard) = shards.last_mut() {
                shard.push(tensor);
            }
        }
        let of = shards.len();
        let create = |(index, mut tensors): (usize, Vec<TensorDescription>)| {
            // Widest types first, so that every tensor is aligned (the order of the Python writer).
            tensors.sort_by_key(|(_, dtype, _)| std::cmp::Reverse(dtype.bitsize()));
            Writer::create(&directory.join(file_name(index, of)), &tensors)
        };
        let shards = shards.into_iter().enumerate().map(create).collect::<Result<_>>()?;
        Ok(Self { directory: directory.to_path_buf(), shards, places, total_bytes })
    }

    /// Whether the tensor is still to be written.
    pub fn is_due(&self, name: &str) -> bool {
        self.places
            .get(name)
            .and_then(|&index| self.shards.get(index))
            .is_some_and(|shard| shard.is_due(name))
    }

    /// Writes a tensor.
    ///
    /// # Errors
    /// Those of [`Writer::write`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let shard = self.places.get(name).and_then(|&index| self.shards.get_mut(index));
        match shard {
            Some(shard) => shard.write(name, bytes),
            None => Err(Error::tensor(&self.directory, name, "not a tensor that is due")),
        }
    }

    /// Syncs everything to the disk.
    ///
    /// # Errors
    /// A tensor is still missing, or the disk failed.
    pub fn finish(self) -> Result<()> {
        let of = self.shards.len();
        self.shards.into_iter().try_for_each(Writer::finish)?;
        if of == 1 {
            return Ok(());
        }
        let files: BTreeMap<&String, String> =
            self.places.iter().map(|(name, &index)| (name, file_name(index, of))).collect();
        let index = json!({"metadata": {"total_size": self.total_bytes}, "weight_map": files});
        write_json(&self.directory.join(INDEX_FILE), &index)
    }
}

fn file_name(index: usize, of: usize) -> String {
    match of {
        1 => SINGLE_FILE.to_owned(),
        _ => format!("model-{:05}-of-{of:05}.safetensors", index + 1),
    }
}

/// The size of a tensor; `None` where it overflows.
fn bytes(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.bitsize(), |product, &d| product.checked_mul(d)).map(|bits| bits / 8)
}

/// Makes the header of a file whose tensors lie in the order given: its length, then JSON with spaces up to a multiple
/// of 8, so that the data is aligned. `about` holds pairs of free text. Returns the header, and where each tensor ends in
/// the file.
///
/// # Errors
/// Two tensors share a name, or a size overflows.
pub fn header(about: &[(&str, &str)], tensors: &[TensorDescription]) -> Result<(Vec<u8>, Vec<u64>), String> {
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0usize;
    for (name, dtype, shape) in tensors {
        let start = end;
        end = bytes(*dtype, shape)
            .and_then(|bytes| start.checked_add(bytes))
            .ok_or_else(|| format!("tensor `{name}` of shape {shape:?} is too large"))?;
        let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (start, end) };
        infos.push((name.clone(), info));
    }
    let ends: Vec<usize> = infos.iter().map(|(_, info)| info.data_offsets.1).collect();
    let undescribed = |e: &dyn Display| format!("cannot describe its tensors: {e}");
    let about = about.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let metadata = Metadata::new(Some(about), infos).map_err(|e| undescribed(&e))?;
    let mut json = serde_json::to_value(&metadata).map_err(|e| undescribed(&e))?;
    // `Metadata` keeps `about` in a hash map, whose order differs from run to run.
    json["__metadata__"].sort_all_objects();
    let mut json = json.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    let ends = ends.into_iter().map(|end| (header.len() + end) as u64).collect();
    Ok((header, ends))
}
