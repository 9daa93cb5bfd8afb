//! The local paths of files with rows, which are fetched where the cache does not have them.

use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use super::card::{CARD_FILE, Card};
use super::dataset::{CONVERTED, DatasetId, files};
use super::environment;
use super::folder::Folder;
use super::id::{HubId, is_plain};
use super::locate::find;
use super::repository::{OnDownload, Repository, connect, failed, is_absent, unusable};
use crate::error::{Error, Result};

/// Endings of files with rows.
const ENDINGS: [&str; 8] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst"];

/// The local paths of the files of a name: a local file, `org/name/file.jsonl` of a dataset on the hub, or a split of
/// `org/name[:config][@revision]`.
///
/// # Errors
/// There is no such file, dataset, config or split; it is not in the cache while offline; the hub refuses or cannot be
/// reached.
pub fn locate_rows(name: &str, split: &str, on_download: OnDownload<'_>) -> Result<Vec<PathBuf>> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(vec![path.to_path_buf()]);
    }
    if let Some(id) = HubId::parse(name, &ENDINGS).filter(|id| id.file.is_some()) {
        return Ok(vec![find(name, RepoType::Dataset, id, on_download)?]);
    }
    // A name that ends as a file does is a file that is not there.
    let is_file = ENDINGS.iter().any(|ending| name.ends_with(ending));
    match DatasetId::parse(name).filter(|_| !is_file) {
        Some(dataset) => fetch(&dataset, split, on_download).map_err(|error| error.about(name)),
        None => Err(Error::invalid(
            format!("{name}: no such file"),
            "give a file with rows, or a dataset of the Hugging Face hub as org/name or org/name:config",
        )),
    }
}

fn fetch(dataset: &DatasetId, split: &str, on_download: OnDownload<'_>) -> Result<Vec<PathBuf>> {
    let repo =
        |revision: &str| Repo::with_revision(dataset.repo.clone(), RepoType::Dataset, revision.to_owned());
    let folder = |revision: &str| Folder::new(&environment::cache(), &repo(revision));
    if let Some(variable) = environment::offline() {
        let cached = |revision: &&str| cached(dataset, revision, &folder(revision), split).transpose();
        return dataset.revisions().iter().find_map(cached).unwrap_or_else(|| {
            let what = format!("the split {split} is not in the cache, and {variable} is set");
            Err(Error::hub(format!("{}: {what}", dataset.repo), "unset it, or give a local file"))
        });
    }
    let api = connect(&dataset.repo)?;
    for revision in dataset.revisions() {
        let info = match api.repo(repo(revision)).info() {
            // The hub has not converted every dataset.
            Err(error) if revision == CONVERTED && dataset.revision.is_none() && is_absent(&error) => {
                continue;
            }
            other => other.map_err(|error| failed(&dataset.repo, &error))?,
        };
        let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if revision == CONVERTED
            && dataset.revision.is_none()
            && !names.iter().any(|n| n.ends_with(".parquet"))
        {
            continue;
        }
        let commit = info.sha;
        if !is_plain(&commit) {
            return Err(unusable(&dataset.repo));
        }
        let hub = Repository {
            name: &dataset.repo,
            revision: &commit,
            folder: folder(revision),
            files: api.repo(repo(&commit)),
            api,
        };
        // The hub's conversion has followed the card already.
        if revision != CONVERTED && names.contains(&CARD_FILE) {
            hub.fetch_files(&commit, &[CARD_FILE], on_download)?;
        }
        let card = read_card(dataset, revision, &hub.folder.snapshot(&commit));
        let wanted = files(dataset, revision, &names, card.as_ref(), split)?;
        let paths = hub.fetch_files(&commit, &wanted, on_download)?;
        hub.folder.enter(revision, &commit)?;
        return Ok(paths);
    }
    Err(Error::internal("a dataset without a revision"))
}

/// The files of a split in the cache, if all of them were fetched.
fn cached(dataset: &DatasetId, revision: &str, folder: &Folder, split: &str) -> Result<Option<Vec<PathBuf>>> {
    let Some((snapshot, names, missing)) = folder.files(revision) else { return Ok(None) };
    let all: Vec<&str> = names.iter().chain(&missing).map(String::as_str).collect();
    let card = read_card(dataset, revision, &snapshot);
    // A split that was never fetched is not known here.
    let Ok(found) = files(dataset, revision, &all, card.as_ref(), split) else { return Ok(None) };
    let is_whole = found.iter().all(|name| !missing.iter().any(|absent| absent == name));
    Ok(is_whole.then(|| found.into_iter().map(|name| snapshot.join(name)).collect()))
}

/// The card in a snapshot of a revision, if it has one.
fn read_card(dataset: &DatasetId, revision: &str, snapshot: &Path) -> Option<Card> {
    let readme =
        (revision != CONVERTED).then(|| std::fs::read_to_string(snapshot.join(CARD_FILE)).ok())??;
    Card::read(&dataset.repo, &readme)
}
