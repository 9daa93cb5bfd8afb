//! A file whose parts are written in any order, each at its own offset.
//!
//! A large file is synced in batches of parts while the next parts are written, and a log beside the file lists the
//! durable parts. A later process that creates the file with the same header continues after the parts in the log.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::{atomic, pages};
use crate::error::{Error, Result};

/// A file that is complete once `finish` returns. It belongs in a directory that is published afterwards.
pub struct PlacedFile {
    path: PathBuf,
    file: File,
    /// The ranges of the parts that are not written yet.
    pending: HashMap<String, Range<u64>>,
    log: PartLog,
}

impl PlacedFile {
    /// Creates the file with its header, or continues the file that an ended process left, if it has the same header
    /// and a log. The file is at least `length` bytes long.
    ///
    /// # Errors
    /// Two parts share a name, or an I/O error.
    pub fn create(path: &Path, header: &[u8], parts: Vec<(String, Range<u64>)>, length: u64) -> Result<Self> {
        let end = parts.iter().map(|(_, range)| range.end).fold(length.max(header.len() as u64), u64::max);
        let mut pending = HashMap::with_capacity(parts.len());
        for (name, range) in parts {
            if pending.insert(name.clone(), range).is_some() {
                return Err(Error::damaged(path, format!("two tensors named `{name}`")));
            }
        }
        let log = PartLog::new(path, header);
        if let Some(written) = log.read()?
            && fs::metadata(path).is_ok_and(|file| file.len() == end)
        {
            let file = File::options().write(true).open(path).map_err(Error::io(path, "opening"))?;
            for name in written.lines() {
                pending.remove(name);
            }
            return Ok(Self { path: path.to_path_buf(), file, pending, log });
        }
        log.remove()?;
        let mut file = File::create(path).map_err(Error::io(path, "creating"))?;
        file.write_all(header).and_then(|()| file.set_len(end)).map_err(Error::io(path, "writing"))?;
        Ok(Self { path: path.to_path_buf(), file, pending, log })
    }

    /// Whether the part is still to be written.
    pub fn is_due(&self, name: &str) -> bool {
        self.pending.contains_key(name)
    }

    /// Writes a part.
    ///
    /// # Errors
    /// The name is unknown or its part was written before, the number of bytes is wrong, or an I/O error.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let range = self.pending.remove(name);
        let range =
            range.ok_or_else(|| Error::tensor(&self.path, name, "is unknown here, or was written before"))?;
        if range.end - range.start != bytes.len() as u64 {
            let expected = range.end - range.start;
            let what = format!("expected {expected} bytes to write, got {}", bytes.len());
            return Err(Error::tensor(&self.path, name, what));
        }
        self.file
            .seek(SeekFrom::Start(range.start))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(Error::io(&self.path, "writing"))?;
        self.log.wrote(&self.file, name, bytes.len())
    }

    /// Syncs the file.
    ///
    /// # Errors
    /// A part is still missing, or an I/O error.
    pub fn finish(mut self) -> Result<()> {
        if let Some(name) = self.pending.keys().min() {
            return Err(Error::tensor(&self.path, name, "was never written"));
        }
        self.log.wait()?;
        self.file.sync_all().map_err(Error::io(&self.path, "syncing"))?;
        self.log.remove()
    }
}

/// The log of durable parts: the digest of the header, then the name of a part in each line.
struct PartLog {
    file: PathBuf,
    path: PathBuf,
    digest: String,
    /// Names of the parts that were written since the last batch, one per line.
    names: String,
    /// Their bytes.
    bytes: usize,
    /// The thread that syncs the last batch, then adds its names to the log.
    syncing: Option<JoinHandle<Result<()>>>,
}

impl PartLog {
    /// Bytes of a batch: enough for a disk's full speed, few enough that a kill loses only about a second of work.
    const BYTES: usize = if cfg!(test) { 1 << 10 } else { 256 << 20 };

    fn new(file: &Path, header: &[u8]) -> Self {
        let mut path = file.as_os_str().to_owned();
        path.push(".written");
        let digest = format!("{}\n", blake3::hash(header).to_hex());
        Self {
            file: file.to_path_buf(),
            path: path.into(),
            digest,
            names: String::new(),
            bytes: 0,
            syncing: None,
        }
    }

    /// Reads the names in the log. `None`: there is no log, or its file has another header.
    fn read(&self) -> Result<Option<String>> {
        match fs::read_to_string(&self.path) {
            // The last line may be incomplete: only lines with an end count.
            Ok(text) => Ok(text
                .strip_prefix(&self.digest)
                .map(|names| names.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&self.path, "reading")(error)),
        }
    }

    fn wrote(&mut self, file: &File, name: &str, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        self.names.push_str(name);
        self.names.push('\n');
        if self.bytes < Self::BYTES {
            return Ok(());
        }
        // Only one batch is synced at a time, which also limits the dirty pages that wait for a slow disk.
        self.wait()?;
        let is_new = !self.path.exists();
        let first = if is_new { &*self.digest } else { "" };
        let lines = format!("{first}{}", std::mem::take(&mut self.names));
        self.bytes = 0;
        let (target, path) = (self.file.clone(), self.path.clone());
        let file = file.try_clone().map_err(Error::io(&target, "syncing"))?;
        self.syncing = Some(std::thread::spawn(move || {
            file.sync_data().map_err(Error::io(&target, "syncing"))?;
            pages::uncache(&file, 0..usize::MAX >> 1);
            // First the file's name becomes durable, then the log's lines, then the log's own name.
            let directory = atomic::parent(&path);
            let sync_names = || if is_new { atomic::sync_directory(directory) } else { Ok(()) };
            let log = sync_names().and_then(|()| File::options().create(true).append(true).open(&path));
            log.and_then(|mut log| log.write_all(lines.as_bytes()).and_then(|()| log.sync_data()))
                .and_then(|()| sync_names())
                .map_err(Error::io(&path, "writing"))
        }));
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        match self.syncing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(&self.path, "removing")(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for PartLog {
    /// Waits for the last batch, so that after an error no thread writes into a directory that is being removed.
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = PartLog::BYTES as u64;

    /// Creates a file of two parts, each as large as a batch.
    fn create(path: &Path, header: &[u8]) -> Result<PlacedFile> {
        let parts = vec![("a".to_owned(), 8..8 + PART), ("b".to_owned(), 8 + PART..8 + 2 * PART)];
        PlacedFile::create(path, header, parts, 0)
    }

    #[test]
    fn a_file_continues_after_the_parts_in_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let due = |file: &PlacedFile| ["a", "b"].map(|name| file.is_due(name));
        let part = vec![7; PartLog::BYTES];
        let mut file = create(&path, b"header 1").unwrap();
        file.write("b", &part).unwrap();
        assert!(file.write("b", &part).is_err());
        drop(file);
        assert_eq!(due(&create(&path, b"header 1").unwrap()), [true, false]);
        // A line that was cut off does not count.
        let log = directory.path().join("file.written");
        let whole = fs::read_to_string(&log).unwrap();
        assert!(whole.ends_with("\nb\n"));
        fs::write(&log, whole.strip_suffix('\n').unwrap()).unwrap();
        assert_eq!(due(&create(&path, b"header 1").unwrap()), [true, true]);
        fs::write(&log, whole).unwrap();
        let mut file = create(&path, b"header 1").unwrap();
        file.write("a", &part).unwrap();
        file.finish().unwrap();
        assert!(!log.exists());
        assert_eq!(fs::read(&path).unwrap()[8..], [7; 2 * PartLog::BYTES]);
    }

    #[test]
    fn a_file_with_another_header_or_length_starts_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let part = vec![7; PartLog::BYTES];
        for shorten in [false, true] {
            let mut file = create(&path, b"header 1").unwrap();
            file.write("b", &part).unwrap();
            drop(file);
            if shorten {
                File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
            }
            let file = create(&path, if shorten { b"header 1" } else { b"header 2" }).unwrap();
            assert!(file.is_due("a") && file.is_due("b"), "{shorten}");
            assert!(!directory.path().join("file.written").exists());
            assert_eq!(fs::metadata(&path).unwrap().len(), 8 + 2 * PART);
        }
    }
}
