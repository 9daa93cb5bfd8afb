//! An append-only file, written by one process at a time. Every addition is durable before the next one is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::atomic;
use super::lock::Locked;
use crate::error::{Error, Result};

/// An append-only file, locked until this is dropped.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    file: Locked,
    /// Offset of the end of the last complete addition, in bytes.
    end: u64,
    /// Whether an addition failed and its bytes could not be removed again.
    broken: bool,
}

impl AppendFile {
    /// Creates a file that begins with `bytes`. When this returns, the file is durable.
    ///
    /// # Errors
    /// `busy` if another process is creating the file, `exists` if it exists already; an I/O error.
    pub fn create(
        path: &Path,
        bytes: &[u8],
        busy: impl FnOnce() -> Error,
        exists: impl FnOnce() -> Error,
    ) -> Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&partial);
        let mut file = Locked::new(file.map_err(Error::io(&partial, "creating"))?, path, busy)?;
        // Checked only under the lock: of two processes that create the file at once, the second finds the first's.
        if path.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let written = write_whole(&mut file, bytes).and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            // Best effort: the failed write is the error to report.
            let _ = fs::remove_file(&partial);
        }
        let durable = written.and_then(|()| atomic::sync_directory(atomic::parent(path)));
        durable.map_err(Error::io(path, "writing"))?;
        Ok(Self { path: path.to_path_buf(), file, end: bytes.len() as u64, broken: false })
    }

    /// Opens the file of an earlier process and returns its bytes. [`Self::keep`] decides how many of them stay.
    ///
    /// # Errors
    /// `busy` if another process holds the file; the file is missing, or another I/O error.
    pub fn open(path: &Path, busy: impl FnOnce() -> Error) -> Result<(Self, Vec<u8>)> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let mut file = Locked::new(file.map_err(Error::io(path, "opening"))?, path, busy)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path, "reading"))?;
        Ok((Self { path: path.to_path_buf(), file, end: bytes.len() as u64, broken: false }, bytes))
    }

    /// Cuts off all bytes from `end` on and makes the rest durable: the process that wrote them may have been killed
    /// before it synced.
    ///
    /// # Errors
    /// An I/O error.
    pub fn keep(&mut self, end: u64) -> Result<()> {
        if end < self.end {
            self.file.set_len(end).map_err(Error::io(&self.path, "cutting the torn tail of"))?;
            self.end = end;
        }
        self.file.sync_all().map_err(Error::io(&self.path, "syncing"))
    }

    /// Adds bytes at the end. When this returns, they are durable.
    ///
    /// # Errors
    /// An I/O error. The file is then as it was before, and bytes can be added once there is space again.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.broken {
            let what = format!(
                "an earlier addition failed and its bytes, from byte {} on, could not be removed",
                self.end
            );
            return Err(Error::damaged(&self.path, what));
        }
        if let Err(error) = self.write_at_end(bytes) {
            self.broken = self.file.set_len(self.end).and_then(|()| self.file.sync_all()).is_err();
            return Err(Error::io(&self.path, "adding to")(error));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }
}

fn write_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> Error {
        Error::invalid("busy", "wait")
    }

    fn exists() -> Error {
        Error::invalid("exists", "choose another")
    }

    #[test]
    fn additions_follow_the_bytes_that_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        // The remains of a creator that was killed.
        fs::write(directory.path().join("file.partial"), b"much longer").unwrap();
        let mut file = AppendFile::create(&path, b"head", busy, exists).unwrap();
        file.append(b" one").unwrap();
        file.append(b" two").unwrap();
        assert_eq!(AppendFile::open(&path, busy).unwrap_err().to_string(), "busy");
        drop(file);
        assert_eq!(AppendFile::create(&path, b"head", busy, exists).unwrap_err().to_string(), "exists");
        let (mut file, bytes) = AppendFile::open(&path, busy).unwrap();
        assert_eq!(bytes, b"head one two");
        file.keep(8).unwrap();
        file.append(b" 2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"head one 2");
    }
}
