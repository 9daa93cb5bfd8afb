//! Locks on files: one process at a time holds a file.

use std::fs::{File, TryLockError};
use std::ops::{Deref, DerefMut};
use std::path::Path;

use crate::error::{Error, Result};

/// A file that stays locked until this value is dropped. The system also unlocks it when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Locks a file. On a file system without locks, this logs a warning and the file stays unprotected.
    ///
    /// # Errors
    /// `busy` if another process holds the lock; an I/O error.
    pub fn new(file: File, path: &Path, busy: impl FnOnce() -> Error) -> Result<Self> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(busy()),
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                tracing::warn!(
                    "{}: this file system has no locks; make sure that no other process uses this file",
                    path.display()
                );
                Ok(Self(file))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(path, "locking")(error)),
        }
    }
}

impl Drop for Locked {
    /// Unlocks the file explicitly. Closing it is not enough: all copies of the handle share the lock, and a child
    /// process that another thread is just starting has a copy until it runs its own program.
    fn drop(&mut self) {
        // Best effort: the handle is closed next.
        let _ = self.0.unlock();
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_handle_does_not_keep_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        let copy = file.try_clone().unwrap();
        let busy = || Error::invalid("busy", "wait");
        let locked = Locked::new(file, &path, busy).unwrap();
        assert!(Locked::new(File::open(&path).unwrap(), &path, busy).is_err());
        drop(locked);
        assert!(Locked::new(File::open(&path).unwrap(), &path, busy).is_ok());
        drop(copy);
    }
}
