//! The local path of a model or a text, which is fetched where the cache does not have it.

use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use super::environment;
use super::folder::Folder;
use super::id::{HubId, is_plain};
use super::repository::{OnDownload, Repository, connect, failed, unusable, wanted};
use crate::checkpoint::gguf::split;
use crate::checkpoint::wrapped;
use crate::error::{Error, Result};
use crate::storage::atomic;

/// The local path of a model; files that are not there yet are fetched.
///
/// # Errors
/// The model is neither a path nor a hub id, or not in the cache while offline; the hub refuses or cannot be reached.
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
/// Those of [`locate`].
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

/// The local path of a repository or of one of its files.
///
/// # Errors
/// Those of [`locate`].
pub fn find(model: &str, kind: RepoType, id: HubId, on_download: OnDownload<'_>) -> Result<PathBuf> {
    let name = id.name();
    let repo = |revision: &str| Repo::with_revision(id.repo.clone(), kind, revision.to_owned());
    let folder = Folder::new(&environment::cache(), &repo(&id.revision));
    if let Some(variable) = environment::offline() {
        let absent = || {
            let what = format!("{model} is not in the cache, and {variable} is set");
            Error::hub(what, "unset it, or give a local path")
        };
        return match &id.file {
            Some(file) => first(parts(file).iter().map(|f| folder.file(&id.revision, f).ok_or_else(absent))),
            // An adapter's directory is refused with a telling error when it is opened.
            None => {
                let adapter = || {
                    let config = folder.file(&id.revision, wrapped::ADAPTER_CONFIG)?;
                    Some(atomic::parent(&config).to_path_buf())
                };
                folder.model(&id.revision).or_else(adapter).ok_or_else(absent)
            }
        };
    }
    let api = connect(model)?;
    if let Some(file) = &id.file {
        let files = api.repo(repo(&id.revision));
        let hub = Repository { name: &name, revision: &id.revision, folder, files, api };
        let mut fetch = |file: &String| match hub.folder.file(&id.revision, file) {
            Some(path) => Ok(path),
            None => hub.fetch(file, on_download),
        };
        return first(parts(file).iter().map(&mut fetch));
    }
    // All files are of one commit, even if another is pushed meanwhile. The revision is entered once all are there.
    let info = api.repo(repo(&id.revision)).info().map_err(|error| failed(&name, &error))?;
    let commit = info.sha;
    if !is_plain(&commit) {
        return Err(unusable(&name));
    }
    let names = wanted(info.siblings.into_iter().map(|file| file.rfilename).collect());
    let hub = Repository { name: &name, revision: &commit, folder, files: api.repo(repo(&commit)), api };
    let directory = hub.fetch_directory(&commit, names, on_download)?;
    // Once more for all files: a process that was killed may have fetched some without syncing their names.
    hub.folder.settle(&directory.join("config.json"))?;
    hub.folder.enter(&id.revision, &commit)?;
    hub.folder.complete(&commit)?;
    Ok(directory)
}

/// The names of all files of the model that a file belongs to.
fn parts(file: &str) -> Vec<String> {
    split::names(file).map_or_else(|| vec![file.to_owned()], |(_, all)| all)
}

/// The first of some paths, once all are there.
fn first(paths: impl Iterator<Item = Result<PathBuf>>) -> Result<PathBuf> {
    let paths = paths.collect::<Result<Vec<_>>>()?;
    paths.into_iter().next().ok_or_else(|| Error::internal("a model of no files"))
}
