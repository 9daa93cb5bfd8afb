//! Directories that appear whole or not at all: everything is written and synced in a temporary
//! directory beside the target, which is renamed at the end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::atomic::{self, STAGING_PREFIX};
use crate::error::{Error, Result};

/// A directory that is being written. If this is dropped before `publish`, a temporary directory is removed with its
/// files, and one made by [`Self::kept`] stays.
pub struct Staging {
    directory: PathBuf,
    temporary: Option<tempfile::TempDir>,
    out: PathBuf,
}

impl Staging {
    /// Makes a temporary directory beside `out`.
    ///
    /// # Errors
    /// `out` exists already, or its parent cannot be written.
    pub fn new(out: &Path) -> Result<Self> {
        expect_absent(out)?;
        let parent = atomic::parent(out);
        atomic::create_directory(parent)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(STAGING_PREFIX);
        #[cfg(unix)]
        {
            // The default, 0700, would outlive the rename and lock other users out of the result.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let directory =
            builder.tempdir_in(parent).map_err(Error::io(parent, "creating a temporary directory in"))?;
        let path = directory.path().to_path_buf();
        Ok(Self { directory: path, temporary: Some(directory), out: out.to_path_buf() })
    }

    /// Takes or makes `directory`, which keeps its files across processes until it is published. It must lie in the
    /// same file system as `out`.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn kept(directory: PathBuf, out: &Path) -> Result<Self> {
        expect_absent(out)?;
        atomic::create_directory(&directory)?;
        Ok(Self { directory, temporary: None, out: out.to_path_buf() })
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The path of the directory after publication.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Makes the names in the directory durable and renames it to `out`.
    pub fn publish(self) -> Result<()> {
        sync_directory(self.path())?;
        expect_absent(&self.out)?;
        atomic::rename(self.path(), &self.out, "renaming the finished directory to")?;
        // The directory was renamed: there is nothing left to remove.
        let _ = self.temporary.map(tempfile::TempDir::keep);
        Ok(())
    }

    /// Publishes one synced file of the directory as `out`, in the place of the directory.
    pub fn publish_file(self, file: &Path) -> Result<()> {
        expect_absent(&self.out)?;
        atomic::rename(file, &self.out, "renaming the finished file to")
    }
}

/// Replaces the directory `out`, if there is one, by a new one, which `write` makes at the path that it receives. At any
/// time `out` is complete, the old one or the new one; the other is named with [`STAGING_PREFIX`].
///
/// # Errors
/// Those of `write`; an I/O error.
pub fn replace_directory(out: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if !out.exists() {
        return write(out);
    }
    let mut name = OsString::from(STAGING_PREFIX);
    name.push(out.file_name().unwrap_or_default());
    let fresh = out.with_file_name(name);
    write(&fresh)?;
    atomic::exchange(&fresh, out)?;
    fs::remove_dir_all(&fresh).map_err(Error::io(&fresh, "removing"))
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
    // Opened for reading, which is enough to sync: the copy has its source's mode, which may be read-only.
    let file = fs::OpenOptions::new().read(true).open(to).map_err(Error::io(to, "opening the copy"))?;
    file.sync_all().map_err(Error::io(to, "syncing"))
}

/// Writes `original` to a new file in which the bytes of each range (sorted, disjoint) are replaced by as many bytes
/// from `replacement`, one range in memory at a time.
pub fn copy_with_replacements<T>(
    original: &Mmap,
    to: &Path,
    ranges: &[(Range<usize>, T)],
    mut replacement: impl FnMut(&T) -> Result<Vec<u8>>,
) -> Result<()> {
    let misplaced = |range: &Range<usize>| {
        let what = "out of order, outside the file or of another length than their replacement";
        Error::internal(format!("{}: bytes {range:?} cannot be replaced: {what}", to.display()))
    };
    let file = File::create_new(to).map_err(Error::io(to, "creating"))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut position = 0;
    for (range, tag) in ranges {
        let bytes = replacement(tag)?;
        let kept = original.get(position..range.start).filter(|_| bytes.len() == range.len());
        let kept = kept.ok_or_else(|| misplaced(range))?;
        file.write_all(kept).and_then(|()| file.write_all(&bytes)).map_err(Error::io(to, "writing"))?;
        position = range.end;
        super::pages::release(original);
    }
    let tail = original.get(position..).ok_or_else(|| misplaced(&(position..position)))?;
    file.write_all(tail).map_err(Error::io(to, "writing"))?;
    let file = file.into_inner().map_err(|e| Error::io(to, "writing")(e.into_error()))?;
    file.sync_all().map_err(Error::io(to, "syncing"))
}

fn sync_directory(path: &Path) -> Result<()> {
    atomic::sync_directory(path).map_err(Error::io(path, "syncing"))
}

/// # Errors
/// `out` exists.
fn expect_absent(out: &Path) -> Result<()> {
    if out.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(Error::invalid(
        format!("{} exists already", out.display()),
        "choose another output directory, or move this one away: nothing is overwritten",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::pages::MappedFile;
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
    fn a_directory_is_replaced_whole() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        for (text, has_old) in [("1", false), ("2", true)] {
            let written = replace_directory(&out, |fresh| {
                fs::create_dir(fresh).unwrap();
                // Until the new one is complete, the old one is there.
                assert_eq!(fs::read(out.join("old")).is_ok(), has_old);
                write_bytes(&fresh.join(if has_old { "new" } else { "old" }), text.as_bytes())
            });
            written.unwrap();
        }
        assert_eq!(fs::read(out.join("new")).unwrap(), b"2");
        assert_eq!([entries(&out), entries(parent.path())], [1, 1]);
    }

    #[test]
    fn only_the_replaced_ranges_differ() {
        let parent = tempfile::tempdir().unwrap();
        let to = parent.path().join("copy");
        fs::write(parent.path().join("original"), b"abcdefgh").unwrap();
        let original = MappedFile::open(&parent.path().join("original")).unwrap();
        copy_with_replacements(&original.bytes, &to, &[(1..3, b"XY"), (6..8, b"ZW")], |b| Ok(b.to_vec()))
            .unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"aXYdefZW");
    }
}
