//! New checkpoints appear whole or not at all: everything is written and synced in a temporary
//! directory beside the target, which is renamed at the end. Knows no format.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde_json::Value;

use crate::durable::{self, STAGING_PREFIX};
use crate::error::{Error, Result};

/// A directory in the making. Dropped before `publish`, a temporary one is removed with all it holds.
pub struct Staging {
    directory: PathBuf,
    temporary: Option<tempfile::TempDir>,
    parent: PathBuf,
    out: PathBuf,
}

impl Staging {
    /// # Errors
    /// `out` exists already, or its parent cannot be written.
    pub fn new(out: &Path) -> Result<Self> {
        let parent = parent(out)?;
        durable::create_directory(&parent)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(STAGING_PREFIX);
        #[cfg(unix)]
        {
            // The default, 0700, would outlive the rename and lock other users out of the result.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let directory =
            builder.tempdir_in(&parent).map_err(Error::io(&parent, "creating a temporary directory in"))?;
        let path = directory.path().to_path_buf();
        Ok(Self { directory: path, temporary: Some(directory), parent, out: out.to_path_buf() })
    }

    /// In a directory of its own that stays until it is published, with what is in it already. It lies in the
    /// same file system as `out`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn kept(directory: PathBuf, out: &Path) -> Result<Self> {
        let parent = parent(out)?;
        durable::create_directory(&directory)?;
        Ok(Self { directory, temporary: None, parent, out: out.to_path_buf() })
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// What it is to become.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Syncs the directory and gives it its name.
    pub fn publish(self) -> Result<()> {
        sync_directory(self.path())?;
        if self.out.symlink_metadata().is_ok() {
            return Err(already_there(&self.out));
        }
        fs::rename(self.path(), &self.out)
            .map_err(Error::io(&self.out, "renaming the finished directory to"))?;
        // Renamed: there is nothing left to remove.
        let _ = self.temporary.map(tempfile::TempDir::keep);
        sync_directory(&self.parent)
    }

    /// Gives the directory's one file, which was synced, the name that was meant for the directory.
    pub fn publish_file(self, file: &Path) -> Result<()> {
        if self.out.symlink_metadata().is_ok() {
            return Err(already_there(&self.out));
        }
        fs::rename(file, &self.out).map_err(Error::io(&self.out, "renaming the finished file to"))?;
        sync_directory(&self.parent)
    }
}

/// Writes and syncs a file.
pub fn write_json(path: &Path, json: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(json)
        .map_err(|e| Error::damaged(path, format!("cannot be written: {e}")))?;
    text.push(b'\n');
    write_bytes(path, &text)
}

/// Writes and syncs a file.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io(path, "creating"))?;
    file.write_all(bytes).map_err(Error::io(path, "writing"))?;
    file.sync_all().map_err(Error::io(path, "syncing"))
}

/// Copies a file, following symlinks (hub caches are made of them), and syncs the copy.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(Error::io(to, "copying to"))?;
    // Not the copy's mode: a read-only source would make a directory nobody can edit.
    let file = fs::OpenOptions::new().read(true).open(to).map_err(Error::io(to, "opening the copy"))?;
    file.sync_all().map_err(Error::io(to, "syncing"))
}

/// Writes `original` to a new file, with the bytes of each range (sorted, disjoint) replaced by what
/// `replacement` gives for it: as many bytes, one range in memory at a time.
pub fn copy_with_replacements<T>(
    original: &Mmap,
    to: &Path,
    ranges: &[(Range<usize>, T)],
    mut replacement: impl FnMut(&T) -> Result<Vec<u8>>,
) -> Result<()> {
    let file = File::create_new(to).map_err(Error::io(to, "creating"))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut position = 0;
    for (range, tag) in ranges {
        let bytes = replacement(tag)?;
        debug_assert_eq!(bytes.len(), range.len());
        let kept = original.get(position..range.start).unwrap_or_default();
        file.write_all(kept).and_then(|()| file.write_all(&bytes)).map_err(Error::io(to, "writing"))?;
        position = range.end;
        release(original);
    }
    let tail = original.get(position..).unwrap_or_default();
    file.write_all(tail).map_err(Error::io(to, "writing"))?;
    let file = file.into_inner().map_err(|e| Error::io(to, "writing")(e.into_error()))?;
    file.sync_all().map_err(Error::io(to, "syncing"))
}

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

fn sync_directory(path: &Path) -> Result<()> {
    durable::sync_directory(path).map_err(Error::io(path, "syncing"))
}

/// Of what does not exist yet.
fn parent(out: &Path) -> Result<PathBuf> {
    if out.symlink_metadata().is_ok() {
        return Err(already_there(out));
    }
    Ok(durable::parent(out).to_path_buf())
}

fn already_there(out: &Path) -> Error {
    Error::invalid(
        format!("{} exists already", out.display()),
        "choose another output directory, or move this one away: nothing is overwritten",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_directory_appears_whole_and_an_abandoned_one_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let staging = Staging::new(&out).unwrap();
        fs::write(staging.path().join("file"), b"1").unwrap();
        assert!(!out.exists());
        drop(staging);
        assert_eq!(entries(parent.path()), 0);

        let staging = Staging::new(&out).unwrap();
        fs::write(staging.path().join("file"), b"2").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read(out.join("file")).unwrap(), b"2");
        assert_eq!(entries(parent.path()), 1);
    }

    #[test]
    fn an_existing_output_is_refused_before_and_after_the_work() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let staging = Staging::new(&out).unwrap();
        fs::create_dir(&out).unwrap();
        assert!(staging.publish().unwrap_err().to_string().contains("exists already"));
        assert!(Staging::new(&out).is_err());
        assert_eq!(entries(parent.path()), 1);
    }

    #[test]
    fn only_the_replaced_ranges_differ() {
        let parent = tempfile::tempdir().unwrap();
        let to = parent.path().join("copy");
        fs::write(parent.path().join("original"), b"abcdefgh").unwrap();
        let original = map(&parent.path().join("original")).unwrap();
        copy_with_replacements(&original, &to, &[(1..3, b"XY"), (6..8, b"ZW")], |b| Ok(b.to_vec())).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"aXYdefZW");
    }
}
