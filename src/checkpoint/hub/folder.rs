//! A repository's folder in the hub's cache, as huggingface_hub lays it out:
//!
//! ```text
//! blobs/ETAG                  the bytes of a file
//! snapshots/COMMIT/FILE       a link to them (a copy where links cannot be had)
//! refs/REVISION               the commit of a branch, a tag or an abbreviated commit
//! .qzo-fetching-COMMIT        qzo's own: the names of the files of a snapshot that is being fetched, one per line
//! ```
//!
//! Source: huggingface_hub 2.4, `file_download.py` (`try_to_load_from_cache`, `_hf_hub_download_to_cache_dir`).

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::Repo;

use super::id::is_plain;
use crate::error::{Error, Result};
use crate::storage::atomic;

/// The path of the folder.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(cache: &Path, repo: &Repo) -> Self {
        Self(cache.join(repo.folder_name()))
    }

    /// The commit of a revision, which may be a commit itself; `None` where the cache does not know it.
    fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let named = fs::read_to_string(self.reference(revision)).ok();
        let named = named.map(|text| text.trim().to_owned()).filter(|commit| is_plain(commit));
        named
            .or_else(|| (is_plain(revision) && self.snapshot(revision).is_dir()).then(|| revision.to_owned()))
    }

    /// The path of a file, if the cache has it.
    pub fn file(&self, revision: &str, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(&self.commit(revision)?).join(file);
        path.exists().then_some(path)
    }

    /// The directory of a model, if all its files were fetched.
    pub fn model(&self, revision: &str) -> Option<PathBuf> {
        let commit = self.commit(revision)?;
        let directory = self.snapshot(&commit);
        // Without an announcement, no fetch of qzo was cut off.
        let announced = self.announced(&commit);
        let mut names = announced.iter().map(String::as_str).chain(["config.json"]);
        let is_whole = names.all(|name| directory.join(name).exists());
        is_whole.then_some(directory)
    }

    /// The directory of a revision, the names of the files in it, and those that were announced and are missing; `None` if
    /// nothing of it was fetched.
    pub fn files(&self, revision: &str) -> Option<(PathBuf, Vec<String>, Vec<String>)> {
        let commit = self.commit(revision)?;
        let directory = self.snapshot(&commit);
        let mut names = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(directory.join(&folder)).into_iter().flatten().flatten() {
                let name = format!("{folder}{}", entry.file_name().to_string_lossy());
                match entry.path().is_dir() {
                    true => folders.push(format!("{name}/")),
                    false => names.push(name),
                }
            }
        }
        let missing = self.announced(&commit).into_iter().filter(|name| !directory.join(name).exists());
        let missing = missing.collect();
        (!names.is_empty()).then_some((directory, names, missing))
    }

    /// The files of a snapshot that an unfinished fetch was to get.
    pub fn announced(&self, commit: &str) -> Vec<String> {
        let text = fs::read_to_string(self.announcement(commit)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.0.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.0.join("blobs").join(etag)
    }

    /// Makes the directories for a file of a commit, durable before the file is.
    pub fn prepare(&self, commit: &str, file: &str) -> Result<()> {
        atomic::create_directory(&self.0.join("blobs"))?;
        atomic::create_directory(&self.0.join("refs"))?;
        atomic::create_directory(atomic::parent(&self.snapshot(commit).join(file)))
    }

    /// Makes the names of a fetched file durable.
    pub fn settle(&self, file: &Path) -> Result<()> {
        for directory in [&self.0.join("blobs"), atomic::parent(file)] {
            atomic::sync_directory(directory).map_err(Error::io(directory, "syncing"))?;
        }
        Ok(())
    }

    /// Records which files a snapshot is to have, before the first one is fetched.
    pub fn announce(&self, commit: &str, files: &[String]) -> Result<()> {
        atomic::create_directory(&self.0)?;
        atomic::write_atomically(&self.announcement(commit), files.join("\n").as_bytes())
    }

    /// Records the commit of a revision. A commit itself needs no such record.
    pub fn enter(&self, revision: &str, commit: &str) -> Result<()> {
        // hf-hub records the commit of its download as if it were a branch, and does not sync that.
        remove(&self.reference(commit))?;
        if revision == commit {
            return Ok(());
        }
        let path = self.reference(revision);
        atomic::create_directory(atomic::parent(&path))?;
        atomic::write_atomically(&path, commit.as_bytes())
    }

    /// Records that all files of an announced snapshot are there.
    pub fn complete(&self, commit: &str) -> Result<()> {
        remove(&self.announcement(commit))
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.0.join("refs").join(revision)
    }

    fn announcement(&self, commit: &str) -> PathBuf {
        self.0.join(format!(".qzo-fetching-{commit}"))
    }
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "removing")(error)),
        _ => Ok(()),
    }
}
