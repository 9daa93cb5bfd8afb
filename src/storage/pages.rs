//! Files mapped into memory, and functions that load and drop their pages.

use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file read-only.
pub fn map(path: &Path) -> Result<Mmap> {
    Ok(MappedFile::open(path)?.bytes)
}

/// An open file and its read-only map.
pub struct MappedFile {
    pub path: PathBuf,
    pub file: File,
    pub bytes: Mmap,
}

impl MappedFile {
    /// Opens a file and maps it read-only.
    ///
    /// # Errors
    /// The file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "opening"))?;
        // SAFETY: the map is only ever read as plain bytes, every value of which is valid. Truncating
        // the file while it is mapped ends the process with SIGBUS, as in every reader of this kind.
        let bytes = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "mapping"))?;
        Ok(Self { path: path.to_path_buf(), file, bytes })
    }

    pub fn name(&self) -> Result<&OsStr> {
        let nameless = || Error::internal(format!("{}: this path has no file name", self.path.display()));
        self.path.file_name().ok_or_else(nameless)
    }

    /// Reads `to.len()` bytes from offset `start`. For many small parts far from each other this is faster than the
    /// map, which costs a page fault for each part and keeps the neighbouring pages in memory.
    ///
    /// # Errors
    /// The file is too short, or an I/O error.
    pub fn read_at(&self, start: usize, to: &mut [u8]) -> Result<()> {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_exact_at(&self.file, to, start as u64);
        #[cfg(not(unix))]
        let read = match self.bytes.get(start..start + to.len()) {
            Some(part) => Ok(to.copy_from_slice(part)),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        };
        read.map_err(Error::io(&self.path, "reading"))
    }
}

/// Drops the pages of a map from this process's memory. They stay in the system's page cache.
pub fn release(map: &Mmap) {
    #[cfg(unix)]
    {
        // SAFETY: the map is a private map of a file and is never written through: a dropped page is read from the
        // file again with the same bytes.
        let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        // Where the system refuses, the pages stay: nothing but memory is lost.
        let _ = advised;
    }
    #[cfg(not(unix))]
    let _ = map;
}

/// Drops a range of a mapped file from this process's memory and from the system's page cache. (In a virtual machine,
/// memory that was never used before costs several times more than pages that were just given back.)
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

/// Drops a range of a file from the system's page cache, except for pages that are not on the disk yet.
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

/// Asks the system to read a range of a map soon, without waiting for it.
pub fn prefetch(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // Linux reads no more than its read-ahead for one request, by default 128 KiB.
        const REQUEST: usize = 128 << 10;
        for start in range.clone().step_by(REQUEST) {
            // Where the system refuses, the bytes are read when they are needed.
            let _ = map.advise_range(memmap2::Advice::WillNeed, start, REQUEST.min(range.end - start));
        }
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}
