//! Durable writes. The bytes of a file survive a power cut once the file is synced, and its name once its directory is
//! synced. Therefore the order is always: sync the bytes, give the name, sync the directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// The prefix of every unfinished file's name, by which the remains of a killed process can be recognised.
pub const STAGING_PREFIX: &str = ".qzo-writing-";

/// The prefix of the name that a complete directory has while another takes its place.
const ASIDE_PREFIX: &str = ".qzo-aside-";

/// The directory that contains a path.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the bytes of a file that another library wrote durable.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the bytes that were written to an open file durable, without its other metadata.
///
/// # Errors
/// An I/O error.
pub fn sync_data(file: &File, path: &Path) -> Result<()> {
    file.sync_data().map_err(Error::io(path, "syncing"))
}

/// Renames a file or directory within its file system and makes the new name durable. Its bytes must be durable
/// already.
///
/// # Errors
/// An I/O error, which names the `action`.
pub fn rename(from: &Path, to: &Path, action: &'static str) -> Result<()> {
    fs::rename(from, to).map_err(Error::io(to, action))?;
    let directory = parent(to);
    sync_directory(directory).map_err(Error::io(directory, "syncing"))
}

/// Exchanges the names of two directories and makes them durable. Where the system can, this is one step; elsewhere a
/// process that is killed in between leaves `to` under a name that begins with `.qzo-aside-`.
///
/// # Errors
/// An I/O error.
pub fn exchange(from: &Path, to: &Path) -> Result<()> {
    if !exchanged_at_once(from, to).map_err(Error::io(to, "replacing"))? {
        let mut name = OsString::from(ASIDE_PREFIX);
        name.push(to.file_name().unwrap_or_default());
        let aside = to.with_file_name(name);
        rename(to, &aside, "moving aside to")?;
        rename(from, to, "replacing")?;
        return rename(&aside, from, "moving the old directory to");
    }
    let directory = parent(to);
    sync_directory(directory).map_err(Error::io(directory, "syncing"))
}

/// Exchanges two names in one step. Returns false where the system or the file system cannot.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchanged_at_once(from: &Path, to: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchanged_at_once(_from: &Path, _to: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Makes the names in a directory durable. Does nothing on systems and file systems that cannot sync a directory.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(path)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced,
    }
}

/// Makes a directory and all missing ones above it, and makes their names durable.
///
/// # Errors
/// A file has one of the names; an I/O error.
pub fn create_directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if above != path {
        create_directory(above)?;
    }
    match fs::create_dir(path) {
        // Another process made it, and may not have synced its name yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(Error::io(path, "creating the directory"))?,
    }
    sync_directory(above).map_err(Error::io(above, "syncing"))
}

/// Replaces a file so that at any time either the complete new one or the old one exists: writes a temporary file in
/// the same directory, syncs it, renames it and syncs the directory.
///
/// # Errors
/// An I/O error. The old file still exists.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    stream_atomically(path, |file| file.write_all(bytes).map_err(Error::io(path, "writing")))
}

/// Like [`write_atomically`], for a file that `write` writes piece by piece.
///
/// # Errors
/// Those of `write`; an I/O error.
pub fn stream_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = || Error::io(path, "writing");
    let directory = parent(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(STAGING_PREFIX);
    #[cfg(unix)]
    {
        // The default, 0600, would outlive the rename.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(directory).map_err(failed())?;
    let mut buffered = BufWriter::new(file.as_file());
    write(&mut buffered)?;
    buffered.flush().map_err(failed())?;
    drop(buffered);
    file.as_file().sync_all().map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    sync_directory(directory).map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_made_and_existing_files_stay_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_directory(&deep).unwrap();
        create_directory(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(root.path().join("file"), "mine").unwrap();
        for taken in ["file", "file/below"] {
            let error = create_directory(&root.path().join(taken)).unwrap_err().to_string();
            assert!(error.contains("file: creating the directory"), "{error}");
        }
        assert_eq!(fs::read(root.path().join("file")).unwrap(), b"mine");
        assert_eq!((parent(Path::new("a")), parent(Path::new("a/b"))), (Path::new("."), Path::new("a")));
    }
}
