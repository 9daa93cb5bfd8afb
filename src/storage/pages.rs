//! Files mapped into memory, and which of their pages are kept there.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file read-only.
pub fn map(path: &Path) -> Result<Mmap> {
    Ok(open_mapped(path)?.1)
}

/// A file, and its map, which is read-only.
pub fn open_mapped(path: &Path) -> Result<(File, Mmap)> {
    let file = File::open(path).map_err(Error::io(path, "opening"))?;
    // SAFETY: the map is only ever read as plain bytes, every value of which is valid. Truncating
    // the file while it is mapped ends the process with SIGBUS, as in every reader of this kind.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "mapping"))?;
    Ok((file, map))
}

/// Reads a part of a mapped file. Where many lie apart, its map would cost a fault for each, which takes longer,
/// and hold their neighbours in memory.
pub fn read_at(file: &File, map: &Mmap, start: usize, to: &mut [u8]) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let _ = map;
        std::os::unix::fs::FileExt::read_exact_at(file, to, start as u64)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        let part = map.get(start..start + to.len());
        to.copy_from_slice(part.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Drops the pages of a map from this process's memory. They stay in the system's cache.
pub fn release(map: &Mmap) {
    #[cfg(unix)]
    {
        // SAFETY: the map is private, of a file, and never written through: a page that is dropped is
        // read from the file again with the same bytes.
        let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        // Where the system refuses, the pages stay: nothing but memory is lost.
        let _ = advised;
    }
    #[cfg(not(unix))]
    let _ = map;
}

/// Drops some bytes of a file from this process's memory and from the system's cache. A virtual machine
/// pays several times more for memory it never used than for pages that come back at once.
pub fn forget(map: &Mmap, path: &Path, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: as in `release`; the range lies in the map, or is refused.
        let advised = unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
        // Where the system refuses, the pages stay: nothing but memory is lost.
        let _ = advised;
    }
    if let Ok(file) = File::open(path) {
        uncache(&file, range);
    }
    #[cfg(not(unix))]
    let _ = map;
}

/// Drops what is on the disk of some bytes of a file from the system's cache.
pub fn uncache(file: &File, range: Range<usize>) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let (start, count) = (range.start as libc::off_t, range.len() as libc::off_t);
        // SAFETY: the descriptor is open as long as `file`; the call touches no memory of this process.
        let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), start, count, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, range);
}

/// Asks the system to read some bytes of a map soon.
pub fn prefetch(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // Linux reads no more for one request than it reads ahead of itself, 128 KiB where nobody changed that.
        const REQUEST: usize = 128 << 10;
        for start in range.clone().step_by(REQUEST) {
            // Where the system refuses, they are read when they are needed.
            let _ = map.advise_range(memmap2::Advice::WillNeed, start, REQUEST.min(range.end - start));
        }
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}
