//! A file whose parts are written in any order, each at the place that its header gave it. Knows no format.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// It is whole at `finish`; write it in a directory that is published afterwards.
pub struct PlacedFile {
    path: PathBuf,
    file: File,
    /// Where each part that was not written yet goes.
    pending: HashMap<String, Range<u64>>,
}

impl PlacedFile {
    /// Creates the file with its header; it is `length` bytes long at least.
    ///
    /// # Errors
    /// The file exists, two parts share a name, or the disk fails.
    pub fn create(path: &Path, header: &[u8], parts: Vec<(String, Range<u64>)>, length: u64) -> Result<Self> {
        let end = parts.iter().map(|(_, range)| range.end).fold(length.max(header.len() as u64), u64::max);
        let mut pending = HashMap::with_capacity(parts.len());
        for (name, range) in parts {
            if pending.insert(name.clone(), range).is_some() {
                return Err(Error::damaged(path, format!("two tensors named `{name}`")));
            }
        }
        let mut file = File::create_new(path).map_err(Error::io(path, "creating"))?;
        file.write_all(header).and_then(|()| file.set_len(end)).map_err(Error::io(path, "writing"))?;
        Ok(Self { path: path.to_path_buf(), file, pending })
    }

    /// # Errors
    /// A name that has no place or was written before, or another number of bytes.
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
    /// A part is still missing, or the disk failed.
    pub fn finish(self) -> Result<()> {
        if let Some(name) = self.pending.keys().min() {
            return Err(Error::tensor(&self.path, name, "was never written"));
        }
        self.file.sync_all().map_err(Error::io(&self.path, "syncing"))
    }
}
