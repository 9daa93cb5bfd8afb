//! Download from one repository of the hub.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};

use super::announced::Announced;
use super::environment;
use super::folder::{Folder, remove};
use super::id::is_plain;
use crate::checkpoint::wrapped;
use crate::error::{Error, Result};
use crate::storage::atomic;

/// Progress of a download: the name of the file, the bytes that were received, and all its bytes.
pub type OnDownload<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// A client of the hub that the environment names.
pub fn connect(model: &str) -> Result<Api> {
    let cache = Cache::new(environment::cache());
    let mut builder = ApiBuilder::from_cache(cache).with_progress(false).with_token(environment::token());
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.build().map_err(|error| failed(model, &error))
}

/// One repository at one revision.
pub struct Repository<'a> {
    /// `org/name` or `org/name@revision`
    pub name: &'a str,
    /// The revision in the files' URLs: for a whole directory, its commit.
    pub revision: &'a str,
    pub folder: Folder,
    pub files: ApiRepo,
    pub api: Api,
}

/// The number of attempts at a download that breaks off.
const ATTEMPTS: u32 = 4;

impl Repository<'_> {
    /// Fetches the files of a commit that the cache does not have.
    ///
    /// # Errors
    /// The repository holds no model in Hugging Face's format; the hub refuses or cannot be reached.
    pub fn fetch_directory(
        &self,
        commit: &str,
        names: Vec<String>,
        on_download: OnDownload<'_>,
    ) -> Result<PathBuf> {
        let has = |file: &str| names.iter().any(|name| name == file);
        if !has("config.json") && has(wrapped::ADAPTER_CONFIG) {
            return Err(wrapped::repository(self.name));
        }
        if !has("config.json") {
            return Err(Error::unsupported(
                format!("{} has no config.json", self.name),
                "name one of its files, as in org/name/file.gguf, where it holds GGUF files",
            ));
        }
        let directory = self.folder.snapshot(commit);
        let missing: Vec<&String> = names.iter().filter(|name| !directory.join(name).exists()).collect();
        if !missing.is_empty() {
            self.folder.announce(commit, &names)?;
        }
        for name in missing {
            self.fetch(name, on_download)?;
        }
        Ok(directory)
    }

    /// Fetches these files of a commit, as far as the cache does not have them. Returns their paths.
    ///
    /// # Errors
    /// The hub refuses or cannot be reached.
    pub fn fetch_files(
        &self,
        commit: &str,
        names: &[&str],
        on_download: OnDownload<'_>,
    ) -> Result<Vec<PathBuf>> {
        let directory = self.folder.snapshot(commit);
        let missing: Vec<&str> =
            names.iter().filter(|name| !directory.join(name).exists()).copied().collect();
        if !missing.is_empty() {
            // A file that an earlier command was to fetch is still missing.
            let before =
                self.folder.announced(commit).into_iter().filter(|name| !directory.join(name).exists());
            let all: BTreeSet<String> = before.chain(names.iter().map(|name| (*name).to_owned())).collect();
            self.folder.announce(commit, &all.into_iter().collect::<Vec<_>>())?;
            for name in missing {
                self.fetch(name, on_download)?;
            }
        }
        if self.folder.announced(commit).iter().all(|name| directory.join(name).exists()) {
            self.folder.complete(commit)?;
        }
        Ok(names.iter().map(|name| directory.join(name)).collect())
    }

    /// Fetches one file, in several attempts.
    pub fn fetch(&self, file: &str, on_download: OnDownload<'_>) -> Result<PathBuf> {
        let name = format!("{}/{file}", self.name);
        let mut attempt = 1;
        loop {
            let failure = match self.attempt(file, &name, on_download)? {
                Ok(path) => return Ok(path),
                Err(failure) => failure,
            };
            if attempt == ATTEMPTS || is_status(&failure.to_string(), &["401", "403", "404"]) {
                return Err(failed(&name, &failure));
            }
            std::thread::sleep(Duration::from_millis(300));
            attempt += 1;
        }
    }

    /// Continues the file that an earlier attempt began. A file that differs from the hub's announcement is deleted.
    fn attempt(
        &self,
        file: &str,
        name: &str,
        on_download: OnDownload<'_>,
    ) -> Result<std::result::Result<PathBuf, ApiError>> {
        let metadata = match self.api.metadata(&self.files.url(file)) {
            Ok(metadata) => metadata,
            Err(error) => return Ok(Err(error)),
        };
        let announced = Announced::new(&metadata).ok_or_else(|| unusable(name))?;
        let blob = self.folder.blob(&announced.etag);
        let part = blob.with_extension("part");
        self.folder.prepare(&announced.commit, file)?;
        let begun = std::fs::metadata(&part).map_or(0, |part| part.len());
        if begun >= announced.bytes {
            remove(&part)?;
        }
        let mut synced = Ok(());
        let progress =
            Download { part: &part, synced: &mut synced, file: String::new(), done: 0, of: 0, on_download };
        let path = match self.files.download_with_progress(file, progress) {
            Ok(path) => path,
            Err(error) => return Ok(Err(error)),
        };
        synced.map_err(Error::io(&path, "syncing"))?;
        let Some(difference) = announced.difference(&path)? else {
            self.folder.settle(&path)?;
            self.folder.enter(self.revision, &announced.commit)?;
            return Ok(Ok(path));
        };
        remove(&path)?;
        remove(&blob)?;
        Err(Error::hub(
            format!("{name}: fetching from the Hugging Face hub: {difference}"),
            "the file was deleted; try again, and if the error stays, the copy on the hub is damaged",
        ))
    }
}

/// The files to fetch, at the top level: the weights and everything that is needed to serve the result. `consolidated`
/// weights are the same ones under other names, and so are PyTorch's where there are safetensors.
pub fn wanted(mut names: Vec<String>) -> Vec<String> {
    let kinds = [".safetensors", ".json", ".jinja", ".txt", ".model", ".py", ".bin"];
    names.retain(|name| {
        is_plain(name)
            && !name.starts_with("consolidated.")
            && (kinds.iter().any(|kind| name.ends_with(kind)) || name.starts_with("LICENSE"))
    });
    let is_pickled = |name: &str| name.ends_with(".bin") || name.ends_with(".bin.index.json");
    let has_others = names.iter().any(|name| name.ends_with(".safetensors"));
    names.retain(|name| !is_pickled(name) || !has_others && name.starts_with("pytorch_model"));
    names
}

/// The progress of one download, and its sync.
struct Download<'a> {
    /// The file that hf-hub downloads to and renames at the end.
    part: &'a Path,
    synced: &'a mut std::io::Result<()>,
    file: String,
    done: u64,
    of: u64,
    on_download: OnDownload<'a>,
}

impl Progress for Download<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        (self.file, self.of) = (filename.to_string(), size as u64);
        (self.on_download)(&self.file, 0, self.of);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.on_download)(&self.file, self.done, self.of);
    }

    /// Called when the download is complete and not renamed yet. hf-hub does not sync the file, so this does.
    fn finish(&mut self) {
        *self.synced = atomic::sync_file(self.part);
        (self.on_download)(&self.file, self.of, self.of);
    }
}

/// The error for a request that the hub refused or that did not reach it.
pub fn failed(what: &str, error: &ApiError) -> Error {
    let text = error.to_string();
    let help = if is_status(&text, &["401", "403"]) {
        "it may be gated or private, or not exist: check the id, accept its terms on the hub and set HF_TOKEN"
    } else if is_status(&text, &["404"]) {
        "check the id, the revision and the name of the file; they are case-sensitive"
    } else {
        "check the network and the name, or give a local path; an unfinished download is continued, and \
         with HF_HUB_OFFLINE=1 the files in the cache are used"
    };
    Error::hub(
        format!("{what}: no such path here, and fetching it from the Hugging Face hub failed: {text}"),
        help,
    )
}

/// Whether the hub says that there is no such revision.
pub fn is_absent(error: &ApiError) -> bool {
    is_status(&error.to_string(), &["404"])
}

fn is_status(text: &str, statuses: &[&str]) -> bool {
    statuses.iter().any(|status| text.ends_with(&format!("http status: {status}")))
}

/// The error for an answer whose commit or ETag cannot be part of a path.
pub fn unusable(what: &str) -> Error {
    Error::hub(
        format!("{what}: the hub's answer names a commit or an ETag that cannot be a file's name"),
        "check HF_ENDPOINT",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_fetched_once() {
        let of = |names: &[&str]| wanted(names.iter().map(|name| (*name).to_owned()).collect());
        let pickled = ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"];
        assert_eq!(
            of(&[&pickled[..], &["training_args.bin", "tf_model.h5", "sub/model.safetensors"]].concat()),
            pickled
        );
        assert_eq!(
            of(&[&["model.safetensors"], &pickled[..]].concat()),
            ["model.safetensors", "config.json"]
        );
    }
}
