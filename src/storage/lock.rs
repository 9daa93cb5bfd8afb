//! A file that only one process holds at a time.

use std::fs::{File, TryLockError};
use std::ops::{Deref, DerefMut};
use std::path::Path;

use crate::error::{Error, Result};

/// A file, locked as long as this lives. The system unlocks it when the process ends, however it ends.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Locks a file. On a file system without locks, this warns and gives no protection.
    ///
    /// # Errors
    /// `busy` if another holds the lock; the disk fails.
    pub fn new(file: File, path: &Path, busy: impl FnOnce() -> Error) -> Result<Self> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(busy()),
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                tracing::warn!("{}: this file system has no locks", path.display());
                Ok(Self(file))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(path, "locking")(error)),
        }
    }
}

impl Drop for Locked {
    /// Unlocks explicitly. Closing is not enough: the lock belongs to all copies of the handle, and a child process that
    /// another thread is just starting has a copy until it runs its own program.
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
