//! Digests of the files behind a checkpoint, whatever they mean.

use std::fs::Metadata;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::storage::pages::{self, MappedFile};

/// BLAKE3 over the settings' bytes and the files', each as its length and the digests of its chunks of 16 MiB, which are
/// computed in parallel. Releases the pages that it read. `progress` is given the number of bytes done, and of all.
pub fn digest(settings: &[&[u8]], files: &[MappedFile], progress: &mut dyn FnMut(u64, u64)) -> [u8; 32] {
    const CHUNK: usize = 16 << 20;
    // As many chunks in memory as are digested at a time.
    let at_a_time = CHUNK * rayon::current_num_threads();
    let mut whole = blake3::Hasher::new();
    let all = || settings.iter().copied().chain(files.iter().map(|file| &file.bytes[..]));
    let (mut done, of) = (0, all().map(|bytes| bytes.len() as u64).sum());
    for bytes in all() {
        whole.update(&(bytes.len() as u64).to_le_bytes());
        for bytes in bytes.chunks(at_a_time) {
            let digests: Vec<_> = bytes.par_chunks(CHUNK).map(blake3::hash).collect();
            digests.iter().for_each(|digest| {
                whole.update(digest.as_bytes());
            });
            files.iter().for_each(|file| pages::release(&file.bytes));
            done += bytes.len() as u64;
            progress(done, of);
        }
    }
    *whole.finalize().as_bytes()
}

/// BLAKE3 over the names, lengths and times of the files, and the settings' bytes. They are taken from the open files, so
/// that a file that was replaced since it was opened does not count.
///
/// # Errors
/// The system does not know a file's length or times.
pub fn stamp(settings: &[&[u8]], files: &[MappedFile]) -> Result<[u8; 32]> {
    let mut stamp = blake3::Hasher::new();
    for file in files {
        let unreadable = || Error::io(&file.path, "reading");
        let metadata = file.file.metadata().map_err(unreadable())?;
        let modified = metadata.modified().map_err(unreadable())?;
        // Times before 1970 are all the same: no build of a model is that old.
        let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let (name, length, changed) = (file.name()?, metadata.len(), changed(&metadata));
        stamp.update(format!("{name:?} {length} {modified:?} {changed:?}\n").as_bytes());
    }
    settings.iter().for_each(|bytes| {
        stamp.update(bytes);
    });
    Ok(*stamp.finalize().as_bytes())
}

/// The time of the last change of a file's bytes or attributes. Unlike the time of modification, no program sets it:
/// archives and package stores give all files one time of modification, and two fine-tunes of a model have the same
/// lengths.
fn changed(metadata: &Metadata) -> (i64, i64) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (metadata.ctime(), metadata.ctime_nsec())
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use crate::arch::hf;
    use crate::checkpoint::Checkpoint;

    fn model() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/base");
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
        }
        directory
    }

    #[test]
    fn digests_are_of_the_files_that_were_opened() {
        let directory = model();
        let path = directory.path().join(hf::CONFIG_FILE);
        let open = || Checkpoint::open(directory.path()).unwrap();
        let (fingerprint, opened) = (open().fingerprint().unwrap(), open());
        let stamp = opened.stamp().unwrap();
        fs::write(&path, "{}").unwrap();
        assert_eq!(opened.stamp().unwrap(), stamp);
        let weights = directory.path().join("model.safetensors");
        fs::copy(&weights, directory.path().join("other")).unwrap();
        fs::rename(directory.path().join("other"), &weights).unwrap();
        assert_eq!(opened.fingerprint().unwrap(), fingerprint);
    }

    #[test]
    #[cfg(unix)]
    fn other_weights_of_the_same_length_and_time_are_told_apart() {
        let directory = model();
        let path = directory.path().join("model.safetensors");
        let stamp = || Checkpoint::open(directory.path()).unwrap().stamp().unwrap();
        let before = stamp();
        assert_eq!(stamp(), before);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        // A clock that ticks slowly.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_ne!(stamp(), before);
    }
}
