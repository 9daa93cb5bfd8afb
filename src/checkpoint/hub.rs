//! MODEL as people name it: a path, or `org/name`, `org/name@revision`, `org/name/file.gguf` on the
//! Hugging Face hub. Downloads lie in the hub's standard cache, which HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
//! HF_TOKEN and HF_HUB_OFFLINE govern as they do everywhere else.

use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::error::{Error, Result};

/// A file name and the bytes of it that have come, of how many.
pub type OnDownload<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// The local path of a model; files that are not there yet are fetched.
///
/// # Errors
/// Neither a path nor a hub id; not in the cache while offline; what the hub answers.
pub fn locate(model: &str, on_download: OnDownload<'_>) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let id = HubId::parse(model, &[".gguf"]).ok_or_else(|| {
        Error::invalid(
            format!("{model}: no such file or directory"),
            "give a directory, a .gguf file, or a Hugging Face id such as org/name",
        )
    })?;
    find(model, RepoType::Model, id, on_download)
}

/// The local path of a text: a file, or `org/name/file.txt` (or .jsonl) of a dataset on the hub.
///
/// # Errors
/// As in [`locate`].
pub fn locate_text(text: &str, on_download: OnDownload<'_>) -> Result<PathBuf> {
    let path = Path::new(text);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let id = HubId::parse(text, &[".txt", ".jsonl"]).filter(|id| id.file.is_some()).ok_or_else(|| {
        Error::invalid(
            format!("{text}: no such file"),
            "give a text or JSONL file, or one of a Hugging Face dataset, as in org/name/file.jsonl",
        )
    })?;
    find(text, RepoType::Dataset, id, on_download)
}

fn find(model: &str, kind: RepoType, id: HubId, on_download: OnDownload<'_>) -> Result<PathBuf> {
    let name = id.name();
    let repo = Repo::with_revision(id.repo, kind, id.revision);
    let cached = cache().repo(repo.clone());
    if is_offline() {
        let found = cached.get(id.file.as_deref().unwrap_or("config.json")).ok_or_else(|| {
            let what = format!("{model} is not in the cache, and HF_HUB_OFFLINE is set");
            Error::invalid(what, "unset it, or give a local path")
        })?;
        return Ok(if id.file.is_some() { found } else { parent(&found) });
    }
    let hub = Hub { name: &name, cached, api: api(model)?.repo(repo) };
    match &id.file {
        Some(file) => hub.fetch(file, on_download),
        None => hub.fetch_directory(on_download),
    }
}

fn is_offline() -> bool {
    let no = ["", "0", "false", "no", "off"];
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !no.contains(&value.to_lowercase().as_str()))
}

fn api(model: &str) -> Result<Api> {
    let mut builder = ApiBuilder::from_cache(cache()).with_progress(false).with_retries(3);
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint);
    }
    // Where it is unset, the token that a login left in the cache counts.
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
        builder = builder.with_token(Some(token));
    }
    builder.build().map_err(|error| failed(model, &error))
}

/// One repository at one revision.
struct Hub<'a> {
    /// `org/name` or `org/name@revision`
    name: &'a str,
    cached: CacheRepo,
    api: ApiRepo,
}

impl Hub<'_> {
    fn fetch_directory(&self, on_download: OnDownload<'_>) -> Result<PathBuf> {
        let files = self.api.info().map_err(|error| failed(self.name, &error))?.siblings;
        let files: Vec<String> =
            files.into_iter().map(|f| f.rfilename).filter(|name| is_wanted(name)).collect();
        if !files.iter().any(|name| name == "config.json") {
            return Err(Error::unsupported(
                format!("{} has no config.json", self.name),
                "name one of its files, as in org/name/file.gguf, where it holds GGUF files",
            ));
        }
        let mut directory = None;
        for file in &files {
            directory = Some(parent(&self.fetch(file, on_download)?));
        }
        directory.ok_or_else(|| Error::unsupported(format!("{} is empty", self.name), ""))
    }

    fn fetch(&self, file: &str, on_download: OnDownload<'_>) -> Result<PathBuf> {
        if let Some(path) = self.cached.get(file) {
            return Ok(path);
        }
        let progress = Downloads { file: String::new(), done: 0, of: 0, on_download };
        let fetched = self.api.download_with_progress(file, progress);
        fetched.map_err(|error| failed(&format!("{}/{file}", self.name), &error))
    }
}

/// Weights and everything that a server of the result needs beside them, at the top level.
fn is_wanted(name: &str) -> bool {
    let kinds = [".safetensors", ".json", ".jinja", ".txt", ".model", ".py"];
    !name.contains('/') && (kinds.iter().any(|kind| name.ends_with(kind)) || name.starts_with("LICENSE"))
}

struct Downloads<'a> {
    file: String,
    done: u64,
    of: u64,
    on_download: OnDownload<'a>,
}

impl Progress for Downloads<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        (self.file, self.of) = (filename.to_string(), size as u64);
        (self.on_download)(&self.file, 0, self.of);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.on_download)(&self.file, self.done, self.of);
    }

    fn finish(&mut self) {
        (self.on_download)(&self.file, self.of, self.of);
    }
}

/// HF_HUB_CACHE, or the `hub` folder of HF_HOME, or that of ~/.cache/huggingface.
fn cache() -> Cache {
    match std::env::var_os("HF_HUB_CACHE") {
        Some(path) => Cache::new(path.into()),
        None => Cache::from_env(),
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).to_path_buf()
}

fn failed(what: &str, error: &ApiError) -> Error {
    let text = error.to_string();
    let help = if text.contains("401") || text.contains("403") {
        "the model may be gated or private: accept its terms on the hub and set HF_TOKEN"
    } else if text.contains("404") {
        "check the id; it is case-sensitive"
    } else {
        "check the network, or give a local directory or .gguf file; an unfinished download is continued"
    };
    Error::invalid(format!("{what}: fetching from the Hugging Face hub: {text}"), help)
}

#[derive(Debug, PartialEq, Eq)]
struct HubId {
    repo: String,
    revision: String,
    file: Option<String>,
}

impl HubId {
    /// As it was given, without the file.
    fn name(&self) -> String {
        match self.revision.as_str() {
            "main" => self.repo.clone(),
            revision => format!("{}@{revision}", self.repo),
        }
    }

    /// `endings`: of the files that may be named.
    fn parse(text: &str, endings: &[&str]) -> Option<Self> {
        let (org, rest) = text.split_once('/')?;
        let (name, file) = match rest.split_once('/') {
            Some((name, file)) => (name, Some(file)),
            None => (rest, None),
        };
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
        };
        let file_ok = file.is_none_or(|f| endings.iter().any(|e| f.ends_with(e)) && f.split('/').all(plain));
        (plain(org) && plain(name) && plain(revision) && file_ok).then(|| Self {
            repo: format!("{org}/{name}"),
            revision: revision.to_string(),
            file: file.map(str::to_string),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(repo: &str, revision: &str, file: Option<&str>) -> Option<HubId> {
        Some(HubId { repo: repo.into(), revision: revision.into(), file: file.map(Into::into) })
    }

    #[test]
    fn hub_ids_name_a_repository_a_revision_or_a_file() {
        assert_eq!(HubId::parse("org/name", &[".gguf"]), id("org/name", "main", None));
        assert_eq!(HubId::parse("org/name@v1.0", &[".gguf"]), id("org/name", "v1.0", None));
        assert_eq!(
            HubId::parse("org/name/x.Q4_0.gguf", &[".gguf"]),
            id("org/name", "main", Some("x.Q4_0.gguf"))
        );
        for not in
            ["name", "./name", "/abs/path", "org/", "../x", "org/name/config.json", "a/../b.gguf", "a b/c"]
        {
            assert_eq!(HubId::parse(not, &[".gguf"]), None, "{not}");
        }
    }
}
