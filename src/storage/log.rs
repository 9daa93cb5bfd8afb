//! A file that grows piece by piece, each of which is on the disk before the next is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::atomic;
use super::lock::Locked;
use crate::error::{Error, Result};

/// The one writer of such a file. The file is locked while this lives.
#[derive(Debug)]
pub struct AppendLog {
    path: PathBuf,
    file: Locked,
    /// Where the next piece goes, in bytes.
    end: u64,
    /// An append failed and its bytes could not be taken back.
    broken: bool,
}

impl AppendLog {
    /// Starts the file with its first piece. It appears under its name only when that piece is on the disk.
    ///
    /// # Errors
    /// `busy` if another process is creating it, `taken` if it exists already; the disk refuses.
    pub fn create(
        path: &Path,
        first: &[u8],
        busy: impl FnOnce() -> Error,
        taken: impl FnOnce() -> Error,
    ) -> Result<Self> {
        let partial = with_suffix(path, ".partial");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&partial);
        let mut file = Locked::new(file.map_err(Error::io(&partial, "creating"))?, path, busy)?;
        // Asked only now: two creators meet at the lock, and the second finds the file of the first.
        if path.symlink_metadata().is_ok() {
            return Err(taken());
        }
        let written = write_whole(&mut file, first).and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            // Best effort: the reason it failed is the error to report.
            let _ = fs::remove_file(&partial);
        }
        let durable = written.and_then(|()| atomic::sync_directory(atomic::parent(path)));
        durable.map_err(Error::io(path, "writing"))?;
        Ok(Self { path: path.to_path_buf(), file, end: first.len() as u64, broken: false })
    }

    /// Opens the file, and gives its bytes.
    ///
    /// # Errors
    /// `busy` if another process has it open; it cannot be read.
    pub fn open(path: &Path, busy: impl FnOnce() -> Error) -> Result<(Self, Vec<u8>)> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let mut file = Locked::new(file.map_err(Error::io(path, "opening"))?, path, busy)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path, "reading"))?;
        let end = bytes.len() as u64;
        Ok((Self { path: path.to_path_buf(), file, end, broken: false }, bytes))
    }

    /// Keeps the first `end` bytes, and has them on the disk: the process that wrote them may have been killed
    /// before its sync.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep(&mut self, end: u64) -> Result<()> {
        if end < self.end {
            self.file.set_len(end).map_err(Error::io(&self.path, "cutting the torn end off"))?;
            self.end = end;
        }
        self.file.sync_all().map_err(Error::io(&self.path, "syncing"))
    }

    /// Adds a piece. When this returns, it is on the disk.
    ///
    /// # Errors
    /// The disk refuses. Then the file is as it was before, and can be appended to once there is space again.
    pub fn append(&mut self, piece: &[u8]) -> Result<()> {
        if self.broken {
            return Err(Error::damaged(
                &self.path,
                format!("an earlier append failed and could not be taken back at byte {}", self.end),
            ));
        }
        if let Err(source) = self.write_at_end(piece) {
            self.broken = self.file.set_len(self.end).and_then(|()| self.file.sync_all()).is_err();
            return Err(Error::io(&self.path, "writing")(source));
        }
        self.end += piece.len() as u64;
        Ok(())
    }

    fn write_at_end(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(piece)?;
        self.file.sync_data()
    }
}

fn write_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a way to take a failed append back, nothing more is written.
    #[test]
    fn a_file_that_cannot_be_repaired_refuses_to_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let never = || Error::invalid("busy", "");
        let mut log = AppendLog::create(&path, b"first", never, never).unwrap();
        let writable = std::mem::replace(&mut *log.file, File::open(&path).unwrap());
        assert!(matches!(log.append(b"second"), Err(Error::Io { .. })));
        *log.file = writable;
        assert!(matches!(log.append(b"second"), Err(Error::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }
}
