//! Memory for a while: plain, or a file's where there is not enough.

use std::fs::File;
use std::path::Path;

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// Takes plain memory.
///
/// # Errors
/// The system refuses.
pub fn in_memory(bytes: usize) -> Result<MmapMut> {
    MmapMut::map_anon(bytes).map_err(Error::io("memory", "taking space for temporary tables"))
}

/// Takes the memory of a nameless file in `directory`, which goes with it.
///
/// # Errors
/// The disk has not as much space.
pub fn in_file(bytes: usize, directory: &Path) -> Result<MmapMut> {
    let file = tempfile::tempfile_in(directory).map_err(Error::io(directory, "creating a file in"))?;
    // Space is taken at once: a full disk would be a signal later, at some write to the map.
    allocate(&file, bytes as u64)
        .map_err(Error::io(directory, "taking space for temporary tables in"))?;
    // SAFETY: the file has no name, so that nobody else can open or shorten it.
    unsafe { MmapMut::map_mut(&file) }.map_err(Error::io(directory, "mapping a file in"))
}

fn allocate(file: &File, bytes: u64) -> std::io::Result<()> {
    file.set_len(bytes)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: takes no pointers; the descriptor is open as long as `file` is borrowed.
        let refused = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
        // Some file systems cannot; there the map is as good as any.
        if refused != 0 && refused != libc::EOPNOTSUPP {
            return Err(std::io::Error::from_raw_os_error(refused));
        }
    }
    Ok(())
}
