//! MODEL as people name it: a path, or `org/name`, `org/name@revision`, `org/name/file.gguf` on the
//! Hugging Face hub. Downloads lie in the hub's standard cache, which HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
//! HF_TOKEN and HF_HUB_OFFLINE govern as they do everywhere else.

mod announced;
mod environment;
mod folder;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use announced::Announced;
use folder::{Folder, remove};
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::gguf::split;
use super::wrapped;
use crate::error::{Error, Result};
use crate::storage::atomic;

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
    let repo = |revision: &str| Repo::with_revision(id.repo.clone(), kind, revision.to_owned());
    let folder = Folder::new(&environment::cache(), &repo(&id.revision));
    if let Some(variable) = environment::offline() {
        let absent = || {
            let what = format!("{model} is not in the cache, and {variable} is set");
            Error::invalid(what, "unset it, or give a local path")
        };
        return match &id.file {
            Some(file) => first(parts(file).iter().map(|f| folder.file(&id.revision, f).ok_or_else(absent))),
            // The directory of an adapter says that it is one when it is opened.
            None => {
                let adapter = || {
                    let config = folder.file(&id.revision, wrapped::ADAPTER_CONFIG)?;
                    Some(atomic::parent(&config).to_path_buf())
                };
                folder.model(&id.revision).or_else(adapter).ok_or_else(absent)
            }
        };
    }
    let api = api(model)?;
    if let Some(file) = &id.file {
        let files = api.repo(repo(&id.revision));
        let hub = Hub { name: &name, revision: &id.revision, folder, files, api };
        let mut fetch = |file: &String| match hub.folder.file(&id.revision, file) {
            Some(path) => Ok(path),
            None => hub.fetch(file, on_download),
        };
        return first(parts(file).iter().map(&mut fetch));
    }
    // One commit for all files, whatever is pushed meanwhile. The revision is entered when all are there.
    let info = api.repo(repo(&id.revision)).info().map_err(|error| failed(&name, &error))?;
    let commit = info.sha;
    if !is_plain(&commit) {
        return Err(unusable(&name));
    }
    let names = wanted(info.siblings.into_iter().map(|file| file.rfilename).collect());
    let hub = Hub { name: &name, revision: &commit, folder, files: api.repo(repo(&commit)), api };
    let directory = hub.fetch_directory(&commit, names, on_download)?;
    // Again for all: a process that was killed may have fetched some and not have come to it.
    hub.folder.settle(&directory.join("config.json"))?;
    hub.folder.enter(&id.revision, &commit)?;
    hub.folder.complete(&commit)?;
    Ok(directory)
}

/// A file, and those that it is one model with.
fn parts(file: &str) -> Vec<String> {
    split::names(file).map_or_else(|| vec![file.to_owned()], |(_, all)| all)
}

/// The first of some paths, all of which are there.
fn first(paths: impl Iterator<Item = Result<PathBuf>>) -> Result<PathBuf> {
    let paths = paths.collect::<Result<Vec<_>>>()?;
    paths.into_iter().next().ok_or_else(|| Error::invalid("no file", ""))
}

fn api(model: &str) -> Result<Api> {
    let cache = Cache::new(environment::cache());
    let mut builder = ApiBuilder::from_cache(cache).with_progress(false).with_token(environment::token());
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.build().map_err(|error| failed(model, &error))
}

/// One repository at one revision.
struct Hub<'a> {
    /// `org/name` or `org/name@revision`
    name: &'a str,
    /// The revision in the files' addresses: for a whole directory, its commit.
    revision: &'a str,
    folder: Folder,
    files: ApiRepo,
    api: Api,
}

/// Of a download that breaks off.
const ATTEMPTS: u32 = 4;

impl Hub<'_> {
    fn fetch_directory(
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

    fn fetch(&self, file: &str, on_download: OnDownload<'_>) -> Result<PathBuf> {
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

    /// Continues what an earlier attempt left. What is not what was announced is thrown away.
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
            Downloads { part: &part, synced: &mut synced, file: String::new(), done: 0, of: 0, on_download };
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
        Err(Error::invalid(
            format!("{name}: fetching from the Hugging Face hub: {difference}"),
            "what came was thrown away; try again, and if it stays so, the copy on the hub is damaged",
        ))
    }
}

/// Weights and everything that a server of the result needs beside them, at the top level. `consolidated`
/// weights are the same ones in their authors' names, and so are PyTorch's where there are others.
fn wanted(mut names: Vec<String>) -> Vec<String> {
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

/// A part of an id, a path or a URL that can mean nothing else.
fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
}

struct Downloads<'a> {
    /// The file that hf-hub downloads into and renames at the end.
    part: &'a Path,
    synced: &'a mut std::io::Result<()>,
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

    /// Called when the download is complete and not renamed yet. hf-hub does not sync the file, so it is done here.
    fn finish(&mut self) {
        *self.synced = File::open(self.part).and_then(|part| part.sync_all());
        (self.on_download)(&self.file, self.of, self.of);
    }
}

fn failed(what: &str, error: &ApiError) -> Error {
    let text = error.to_string();
    let help = if is_status(&text, &["401", "403"]) {
        "it may be gated or private, or not exist: check the id, accept its terms on the hub and set HF_TOKEN"
    } else if is_status(&text, &["404"]) {
        "check the id, the revision and the name of the file; they are case-sensitive"
    } else {
        "check the network, or give a local directory or .gguf file; an unfinished download is continued, and \
         what is in the cache is used where HF_HUB_OFFLINE is set"
    };
    Error::invalid(format!("{what}: fetching from the Hugging Face hub: {text}"), help)
}

fn is_status(text: &str, statuses: &[&str]) -> bool {
    statuses.iter().any(|status| text.ends_with(&format!("http status: {status}")))
}

fn unusable(what: &str) -> Error {
    Error::invalid(
        format!("{what}: the hub's answer names a commit or content that is no plain word"),
        "check HF_ENDPOINT",
    )
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

    /// `endings`: of the files that may be named. Before a file a revision has one part, or three where it begins
    /// with `refs`; `%2F` stands for a `/` in it.
    fn parse(text: &str, endings: &[&str]) -> Option<Self> {
        let is_file = |text: &str| endings.iter().any(|ending| text.ends_with(ending));
        let (org, rest) = text.split_once('/')?;
        let (name, revision, file) = match rest.split_at(rest.find(['@', '/']).unwrap_or(rest.len())) {
            (name, "") => (name, "main", None),
            (name, rest) if rest.starts_with('/') => (name, "main", Some(&rest[1..])),
            (name, rest) if is_file(rest) => {
                let parts = if rest.starts_with("@refs/") { 3 } else { 1 };
                let slash = rest.match_indices('/').nth(parts - 1);
                let (revision, file) = rest.split_at(slash.map_or(rest.len(), |(at, _)| at));
                (name, &revision[1..], file.strip_prefix('/'))
            }
            (name, rest) => (name, &rest[1..], None),
        };
        let revision = revision.replace("%2F", "/").replace("%2f", "/");
        let is_ok = is_plain(org)
            && is_plain(name)
            && revision.split('/').all(|part| is_plain(&part.replace(['+', '='], "-")))
            && file.is_none_or(|file| is_file(file) && file.split('/').all(is_plain));
        is_ok.then(|| Self { repo: format!("{org}/{name}"), revision, file: file.map(str::to_string) })
    }
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
        for (text, revision, file) in [
            ("org/name@refs/pr/1", "refs/pr/1", None),
            ("org/name@a/b/c", "a/b/c", None),
            ("org/name@a%2Fb/x.gguf", "a/b", Some("x.gguf")),
            ("org/name@v1/sub/x.gguf", "v1", Some("sub/x.gguf")),
            ("org/name@refs/pr/1/sub/x.gguf", "refs/pr/1", Some("sub/x.gguf")),
            ("org/name@refs/pr/x.gguf", "refs/pr/x.gguf", None),
            ("org/name@x.gguf", "x.gguf", None),
            ("org/name@v1.0+fp16", "v1.0+fp16", None),
        ] {
            assert_eq!(HubId::parse(text, &[".gguf"]), id("org/name", revision, file), "{text}");
        }
        for not in
            ["org/name@", "org/name@/x", "org/name@a//b", "org/name@../x", "org/name@a/../b", "org/@v1"]
        {
            assert_eq!(HubId::parse(not, &[".gguf"]), None, "{not}");
        }
        for not in
            ["name", "./name", "/abs/path", "org/", "../x", "org/name/config.json", "a/../b.gguf", "a b/c"]
        {
            assert_eq!(HubId::parse(not, &[".gguf"]), None, "{not}");
        }
    }
}
