//! Writes a safetensors file tensor by tensor, in any order: the header is known before the first
//! byte of data, so nothing has to be held.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, Result};

/// A file in the making. It becomes a valid file at `finish`; write it in a directory that is
/// published afterwards.
pub struct Writer {
    path: PathBuf,
    file: File,
    /// Where each tensor that was not written yet goes.
    pending: HashMap<String, Range<u64>>,
}

impl Writer {
    /// Creates the file and writes its header; the tensors lie in the order given.
    ///
    /// # Errors
    /// The file exists, two tensors share a name, or a size overflows.
    pub fn create(path: &Path, tensors: &[(String, Dtype, Vec<usize>)]) -> Result<Self> {
        let invalid = |what: String| Error::damaged(path, what);
        let mut pending = HashMap::with_capacity(tensors.len());
        let mut infos = Vec::with_capacity(tensors.len());
        let mut end = 0usize;
        for (name, dtype, shape) in tensors {
            let bits = shape.iter().try_fold(dtype.bitsize(), |product, &d| product.checked_mul(d));
            let start = end;
            end = bits
                .and_then(|bits| start.checked_add(bits / 8))
                .ok_or_else(|| invalid(format!("tensor `{name}` of shape {shape:?} is too large")))?;
            let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (start, end) };
            infos.push((name.clone(), info));
            if pending.insert(name.clone(), start as u64..end as u64).is_some() {
                return Err(invalid(format!("two tensors named `{name}`")));
            }
        }
        let header = header(infos).map_err(|e| invalid(format!("cannot describe its tensors: {e}")))?;
        let data = header.len() as u64;
        pending.values_mut().for_each(|range| *range = range.start + data..range.end + data);

        let mut file = File::create_new(path).map_err(Error::io(path, "creating"))?;
        file.write_all(&header).map_err(Error::io(path, "writing"))?;
        Ok(Self { path: path.to_path_buf(), file, pending })
    }

    /// # Errors
    /// A name that is not in the header or was written before, or another number of bytes.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let range = self.pending.remove(name);
        let range = range.ok_or_else(|| Error::tensor(&self.path, name, "not a tensor that is due"))?;
        if range.end - range.start != bytes.len() as u64 {
            let expected = range.end - range.start;
            let what = format!("expected {expected} bytes to write, got {}", bytes.len());
            return Err(Error::tensor(&self.path, name, what));
        }
        self.file
            .seek(SeekFrom::Start(range.start))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(Error::io(&self.path, "writing"))
    }

    /// # Errors
    /// A tensor is still missing, or the disk failed.
    pub fn finish(self) -> Result<()> {
        if let Some(name) = self.pending.keys().min() {
            return Err(Error::tensor(&self.path, name, "was never written"));
        }
        self.file.sync_all().map_err(Error::io(&self.path, "syncing"))
    }
}

/// Length, JSON, and spaces up to a multiple of 8 so that the data is aligned.
fn header(tensors: Vec<(String, TensorInfo)>) -> Result<Vec<u8>, String> {
    // transformers refuses files that do not say who their tensors are for.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(about), tensors).map_err(|e| e.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
