//! Writable memory for large intermediate results: anonymous, or a file without a name that is gone when the process
//! ends.

use std::fs::File;
use std::path::Path;

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// Zeroed memory. `action` says what it is for, in an error.
///
/// # Errors
/// The system has not enough of it.
pub fn anonymous(bytes: usize, action: &'static str) -> Result<MmapMut> {
    MmapMut::map_anon(bytes).map_err(Error::io("memory", action))
}

/// A zeroed, nameless file in `directory`, mapped. `action` says what its space is for, in an error.
///
/// # Errors
/// The disk has not enough space, which is reserved at once: a full disk would end the process with a signal later, at
/// some write to the map.
pub fn mapped(bytes: usize, directory: &Path, action: &'static str) -> Result<MmapMut> {
    let file = tempfile::tempfile_in(directory).map_err(Error::io(directory, "creating a file in"))?;
    reserve(&file, bytes as u64).map_err(Error::io(directory, action))?;
    // SAFETY: the file has no name, so that no other process can open or shorten it.
    unsafe { MmapMut::map_mut(&file) }.map_err(Error::io(directory, "mapping a file in"))
}

fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    file.set_len(bytes)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: takes no pointers; the descriptor is open as long as `file` is borrowed.
        let refused = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
        // Some file systems cannot reserve space; the map is used without it there.
        if refused != 0 && refused != libc::EOPNOTSUPP {
            return Err(std::io::Error::from_raw_os_error(refused));
        }
    }
    Ok(())
}
