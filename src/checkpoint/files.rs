//! The bytes behind a checkpoint, whatever they mean: which file a directory holds, a digest of all, and
//! which pages of them are in memory.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::gguf::split;
use super::{Checkpoint, Source};
use crate::arch::hf;
use crate::error::{Error, Result};
use crate::storage::pages;

impl Checkpoint {
    /// Identifies weights and config, not their names or places: BLAKE3 over the digests of 16 MiB
    /// pieces, which are taken in parallel.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        const PIECE: usize = 16 << 20;
        // As many in memory as are digested at a time.
        let pieces = PIECE * rayon::current_num_threads();
        let mut whole = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            whole.update(&(bytes.len() as u64).to_le_bytes());
            for bytes in bytes.chunks(pieces) {
                let digests: Vec<_> = bytes.par_chunks(PIECE).map(blake3::hash).collect();
                digests.iter().for_each(|digest| {
                    whole.update(digest.as_bytes());
                });
                self.release();
            }
        };
        match &self.source {
            Source::HuggingFace(directory) => {
                add(directory.config_bytes());
                directory.settings_bytes().into_iter().for_each(&mut add);
                directory.shards().files().iter().for_each(|file| add(&file.bytes));
            }
            Source::Gguf(gguf) => gguf.parts().iter().for_each(|part| add(&part.bytes)),
            Source::Synthetic(_) => return Err(self.no_file()),
        }
        Ok(*whole.finalize().as_bytes())
    }

    /// Changes when a file of the model does: BLAKE3 over names, lengths, times and the config. They are taken from the
    /// open files, so a file that was replaced since does not count.
    pub fn stamp(&self) -> Result<[u8; 32]> {
        let mut stamp = blake3::Hasher::new();
        let mut add = |path: &Path, file: &File| {
            let unreadable = || Error::io(path, "reading");
            let metadata = file.metadata().map_err(unreadable())?;
            let modified = metadata.modified().map_err(unreadable())?;
            let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let name = path.file_name().unwrap_or_default();
            stamp.update(
                format!("{name:?} {} {modified:?} {:?}\n", metadata.len(), changed(&metadata)).as_bytes(),
            );
            Ok(())
        };
        match &self.source {
            Source::HuggingFace(directory) => {
                directory.shards().files().iter().try_for_each(|file| add(&file.path, &file.file))?;
                stamp.update(directory.config_bytes());
                stamp.update(directory.settings_bytes().unwrap_or_default());
            }
            Source::Gguf(gguf) => gguf.parts().iter().try_for_each(|part| add(&part.path, &part.file))?,
            Source::Synthetic(_) => return Err(self.no_file()),
        }
        Ok(*stamp.finalize().as_bytes())
    }

    /// Gives the pages of the mapped files that were read so far back to the system, which counts them as
    /// this process's memory otherwise. They come back when they are read again.
    pub fn release(&self) {
        match &self.source {
            Source::HuggingFace(directory) => directory.shards().files().iter().for_each(|file| {
                pages::release(&file.bytes);
            }),
            Source::Gguf(gguf) => gguf.parts().iter().for_each(|part| pages::release(&part.bytes)),
            Source::Synthetic(_) => {}
        }
    }

    /// A tensor is not read again soon: its pages leave the memory, and those of a large model the system's cache,
    /// too.
    pub fn forget(&self, name: &str) {
        let Source::HuggingFace(directory) = &self.source else { return };
        if let Some((file, range)) = directory.shards().position(name)
            && let Some(file) = directory.shards().files().get(file)
            && self.outgrows_cache()
        {
            pages::forget(&file.bytes, &file.path, range);
        }
    }

    /// Whether the files would push everything else out of the system's cache. Smaller ones are likely to be there
    /// still when they are read by the next command.
    pub fn outgrows_cache(&self) -> bool {
        const LARGE: usize = 4 << 30;
        let Source::HuggingFace(directory) = &self.source else { return false };
        directory.shards().files().iter().map(|file| file.bytes.len()).sum::<usize>() >= LARGE
    }

    /// Asks the system to read the tensors whose names begin with `prefix`, and does not wait for it.
    pub fn prefetch(&self, prefix: &str) {
        if let Source::HuggingFace(directory) = &self.source {
            let names = directory.shards().names().filter(|name| name.starts_with(prefix));
            for (file, range) in names.filter_map(|name| directory.shards().position(name)) {
                if let Some(file) = directory.shards().files().get(file) {
                    pages::prefetch(&file.bytes, range);
                }
            }
        }
    }
}

/// When a file was last changed in any way. Unlike the time of its bytes nobody sets it: archives and package stores
/// give one time to all files, and two fine-tunes of a model have the same lengths.
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

/// The one .gguf file of a directory, or the first of one model's.
pub fn only_gguf(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).map_err(Error::io(directory, "listing"))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(directory, "listing"))?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            found.push(path);
        }
    }
    found.sort();
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let of_one_model = found.first().and_then(name).and_then(|first| split::names(&first));
    if of_one_model.is_some_and(|(_, all)| found.iter().filter_map(name).eq(all)) {
        found.truncate(1);
    }
    <[PathBuf; 1]>::try_from(found).map(|[path]| path).map_err(|found| {
        Error::invalid(
            format!("{}: no {} and {} .gguf files", directory.display(), hf::CONFIG_FILE, found.len()),
            "give a directory with config.json and safetensors files, or the path of one .gguf file",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
    fn digests_are_of_what_was_opened() {
        let directory = model();
        let path = directory.path().join(hf::CONFIG_FILE);
        let opened = Checkpoint::open(directory.path()).unwrap();
        let (fingerprint, stamp) = (opened.fingerprint().unwrap(), opened.stamp().unwrap());
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
