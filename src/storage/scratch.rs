//! Writable memory for large intermediate results: anonymous memory, or a mapped file without a name, which disappears
//! when the process ends.

use std::fs::File;
use std::path::Path;

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// Allocates zeroed memory. `action` describes its purpose in an error.
///
/// # Errors
/// The system has not enough memory.
pub fn anonymous(bytes: usize, action: &'static str) -> Result<MmapMut> {
    MmapMut::map_anon(bytes).map_err(Error::io("memory", action))
}

/// Maps a zeroed, nameless file in `directory`. `action` describes its purpose in an error.
///
/// # Errors
/// The disk has not enough space. The space is reserved at once, because a disk that fills up later would end the
/// process with a signal at a write to the map.
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
        // Some file systems cannot reserve space; there the file is used without a reservation.
        if refused != 0 && refused != libc::EOPNOTSUPP {
            return Err(std::io::Error::from_raw_os_error(refused));
        }
    }
    Ok(())
}
