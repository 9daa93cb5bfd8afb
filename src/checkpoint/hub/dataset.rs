//! Datasets as people name them, `org/name`, `org/name:config`, `org/name:config@revision`, and which files of their
//! repositories hold a split.
//!
//! The hub converts public datasets to parquet, on the branch `refs/convert/parquet`, as `CONFIG/SPLIT/0000.parquet`. A
//! dataset that is not converted, or of which a revision is asked for, is read from its own files: those that its card names,
//! those whose name or folder says which split they are (`train.jsonl`, `data/test-00000-of-00001.parquet`), or all of them
//! as `train`. Source: `datasets` 4.0, `data_files.py`.

use std::collections::BTreeSet;

use super::card::Card;
use super::id::is_plain;
use crate::error::{Error, Result};

/// The branch on which the hub keeps the parquet files that it makes of a dataset.
pub const CONVERTED: &str = "refs/convert/parquet";

/// A dataset on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetId {
    pub repo: String,
    /// Part of the dataset, such as `sst2` of `nyu-mll/glue`.
    pub config: Option<String>,
    /// `None`: what the hub converted or, if there is none, `main`.
    pub revision: Option<String>,
}

impl DatasetId {
    /// Parses a name; `None` where the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, revision) = match text.split_once('@') {
            Some((rest, revision)) => (rest, Some(revision.replace("%2F", "/").replace("%2f", "/"))),
            None => (text, None),
        };
        let (repo, config) = match rest.split_once(':') {
            Some((repo, config)) => (repo, Some(config)),
            None => (rest, None),
        };
        let (org, name) = repo.split_once('/')?;
        let is_ok = is_plain(org)
            && is_plain(name)
            && config.is_none_or(is_plain)
            && revision.as_ref().is_none_or(|revision| revision.split('/').all(is_plain));
        is_ok.then(|| Self { repo: repo.to_owned(), config: config.map(str::to_owned), revision })
    }

    /// The revisions in which the files are looked for, in their order.
    pub fn revisions(&self) -> Vec<&str> {
        match &self.revision {
            Some(revision) => vec![revision],
            None => vec![CONVERTED, "main"],
        }
    }
}

/// The files of a revision that hold a split. `card` is that of the revision, if it has one.
///
/// # Errors
/// There is no such config or split; the error names those that there are.
pub fn files<'n>(
    dataset: &DatasetId,
    revision: &str,
    names: &[&'n str],
    card: Option<&Card>,
    split: &str,
) -> Result<Vec<&'n str>> {
    let converted: Vec<Converted<'_>> = names.iter().filter_map(|name| Converted::of(name)).collect();
    let mut found = match (revision == CONVERTED && !converted.is_empty(), card) {
        (true, _) => of_converted(dataset, &converted, split)?,
        (false, Some(card)) => of_card(dataset, names, card, split)?,
        (false, None) => of_own(dataset, names, split)?,
    };
    found.sort_unstable();
    Ok(found)
}

/// A file that the hub made.
struct Converted<'n> {
    name: &'n str,
    config: &'n str,
    split: &'n str,
}

impl<'n> Converted<'n> {
    fn of(name: &'n str) -> Option<Self> {
        let mut parts = name.split('/');
        let (config, split, file) = (parts.next()?, parts.next()?, parts.next()?);
        let is_one = parts.next().is_none() && file.ends_with(".parquet") && name.split('/').all(is_plain);
        is_one.then_some(Self { name, config, split })
    }

    /// The split of which this is a part. Of large datasets, the hub converts only the start.
    fn split(&self) -> &'n str {
        self.split.strip_prefix("partial-").unwrap_or(self.split)
    }
}

fn of_converted<'n>(dataset: &DatasetId, all: &[Converted<'n>], split: &str) -> Result<Vec<&'n str>> {
    let configs: BTreeSet<&str> = all.iter().map(|file| file.config).collect();
    let config = match &dataset.config {
        Some(config) => configs.get(config.as_str()).copied(),
        None if configs.len() == 1 => configs.first().copied(),
        None => configs.get("default").copied(),
    };
    let config = config.ok_or_else(|| no_config(dataset, &configs))?;
    let of_config = || all.iter().filter(|file| file.config == config);
    let found: Vec<&Converted<'n>> = of_config().filter(|file| file.split() == split).collect();
    if found.is_empty() {
        return Err(no_split(dataset, split, of_config().map(Converted::split)));
    }
    if found.iter().any(|file| file.split.starts_with("partial-")) {
        tracing::warn!("{}: the hub converted only the start of the split {split}", dataset.repo);
    }
    Ok(found.into_iter().map(|file| file.name).collect())
}

/// Words by which the names of files say their split.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Whether a file of a repository has rows.
fn is_data(name: &str) -> bool {
    let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(name);
    let endings = [".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".json"];
    endings.iter().any(|ending| plain.ends_with(ending)) && name.split('/').all(is_plain) && !is_about(name)
}

fn of_card<'n>(dataset: &DatasetId, names: &[&'n str], card: &Card, split: &str) -> Result<Vec<&'n str>> {
    let config = card.config(dataset.config.as_deref()).ok_or_else(|| {
        no_config(dataset, &card.configs.iter().map(|config| config.config_name.as_str()).collect())
    })?;
    config.warn_of_settings(&dataset.repo);
    let Some(splits) = config.splits() else {
        let inside: Vec<&str> = names.iter().filter(|name| config.matches("**/*", name)).copied().collect();
        return of_own(&DatasetId { config: None, ..dataset.clone() }, &inside, split);
    };
    let Some((_, patterns)) = splits.iter().find(|(name, _)| *name == split) else {
        return Err(no_split(dataset, split, splits.iter().map(|(name, _)| *name)));
    };
    let is_of_split = |name: &&&str| patterns.iter().any(|pattern| config.matches(pattern, name));
    let found: Vec<&'n str> =
        names.iter().filter(|name| is_data(name)).filter(is_of_split).copied().collect();
    if found.is_empty() {
        return Err(Error::invalid(
            format!(
                "{}: no file with rows matches {}, the split {split} of its card",
                dataset.repo,
                patterns.join(", ")
            ),
            "name one of its files, as in org/name/file.jsonl",
        ));
    }
    Ok(found)
}

fn of_own<'n>(dataset: &DatasetId, names: &[&'n str], split: &str) -> Result<Vec<&'n str>> {
    let is_of_config = |name: &&&str| {
        dataset.config.as_ref().is_none_or(|config| name.split('/').any(|part| part == config))
    };
    let data = || names.iter().filter(|name| is_data(name));
    let all: Vec<&'n str> = data().filter(is_of_config).copied().collect();
    if all.is_empty() {
        let what = match &dataset.config {
            Some(config) if data().next().is_some() => {
                format!("{} has no config {config}: no folder of that name", dataset.repo)
            }
            _ => format!("{} has no files with rows", dataset.repo),
        };
        return Err(Error::invalid(what, "name one of its files, as in org/name/file.jsonl"));
    }
    let splits: Vec<Option<&str>> = all.iter().map(|name| split_of(name)).collect();
    if split == "train" && splits.iter().all(Option::is_none) {
        return Ok(all);
    }
    let found: Vec<&'n str> =
        all.iter().zip(&splits).filter(|(_, of)| **of == Some(split)).map(|(name, _)| *name).collect();
    if found.is_empty() {
        return Err(no_split(dataset, split, splits.into_iter().flatten()));
    }
    Ok(found)
}

/// Whether a file describes the dataset.
fn is_about(name: &str) -> bool {
    ["dataset_infos.json", "dataset_info.json", "metadata.json", "state.json"]
        .iter()
        .any(|about| name.rsplit('/').next() == Some(about))
}

/// The split that a file's path names, by a word in it.
fn split_of(name: &str) -> Option<&'static str> {
    let words: Vec<String> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_lowercase).collect();
    // The words next to the file count more than those of outer folders.
    let known = |word: &String| SPLITS.iter().find(|(_, words)| words.contains(&word.as_str()));
    words.iter().rev().find_map(known).map(|(split, _)| *split)
}

/// The config that is named is not there, or none of several is named.
fn no_config(dataset: &DatasetId, configs: &BTreeSet<&str>) -> Error {
    let what = match &dataset.config {
        Some(config) => format!("{} has no config {config}", dataset.repo),
        None => format!("{} has several configs", dataset.repo),
    };
    let first = configs.first().copied().unwrap_or("config");
    let names = listed(configs.iter().copied());
    Error::invalid(what, format!("name one of {names}, as in {}:{first}", dataset.repo))
}

fn no_split<'s>(dataset: &DatasetId, split: &str, splits: impl Iterator<Item = &'s str>) -> Error {
    let splits: BTreeSet<&str> = splits.collect();
    let names = listed(splits.into_iter());
    Error::invalid(
        format!("{} has no split {split}", dataset.repo),
        format!("it has {names}: set data.train_split or data.dev_split, or --split for `qzo eval`"),
    )
}

fn listed<'s>(names: impl Iterator<Item = &'s str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DatasetId {
        DatasetId::parse(text).unwrap()
    }

    #[test]
    fn a_dataset_is_named_with_its_config_and_revision() {
        let parts = |text| {
            let DatasetId { repo, config, revision } = id(text);
            (repo, config.unwrap_or_default(), revision.unwrap_or_default())
        };
        let of = |repo: &str, config: &str, revision: &str| (repo.into(), config.into(), revision.into());
        assert_eq!(parts("org/name"), of("org/name", "", ""));
        assert_eq!(parts("nyu-mll/glue:sst2"), of("nyu-mll/glue", "sst2", ""));
        assert_eq!(parts("org/name:a.b@refs%2Fpr%2F1"), of("org/name", "a.b", "refs/pr/1"));
        assert_eq!(parts("org/name@v1"), of("org/name", "", "v1"));
        for not in ["name", "org/name/file", "org/", "../x", "org/name:", "org/name@", "org/name:a/b", "C:/x"]
        {
            assert_eq!(DatasetId::parse(not), None, "{not}");
        }
    }

    const GLUE: [&str; 5] = [
        "cola/train/0000.parquet",
        "sst2/train/0001.parquet",
        "sst2/train/0000.parquet",
        "sst2/validation/0000.parquet",
        ".gitattributes",
    ];

    #[test]
    fn converted_files_are_found_by_config_and_split() {
        let of = |name, names: &[&'static str], split| files(&id(name), CONVERTED, names, None, split);
        let error = |name, names, split| of(name, names, split).unwrap_err();
        assert_eq!(
            of("a/glue:sst2", &GLUE, "train").unwrap(),
            ["sst2/train/0000.parquet", "sst2/train/0001.parquet"]
        );
        assert_eq!(error("a/glue", &GLUE, "train").to_string(), "a/glue has several configs");
        assert_eq!(error("a/glue", &GLUE, "train").help(), Some("name one of cola, sst2, as in a/glue:cola"));
        assert_eq!(error("a/glue:x", &GLUE, "train").to_string(), "a/glue has no config x");
        let absent = error("a/glue:sst2", &GLUE, "test");
        assert_eq!(absent.to_string(), "a/glue has no split test");
        assert!(absent.help().unwrap().starts_with("it has train, validation: "));
        // A single config needs no name, and neither does the one called default.
        assert_eq!(of("a/one", &GLUE[..1], "train").unwrap(), ["cola/train/0000.parquet"]);
        let two = ["default/partial-train/0000.parquet", "other/train/0000.parquet"];
        assert_eq!(of("a/two", &two, "train").unwrap(), [two[0]]);
    }

    #[test]
    fn own_files_are_found_by_the_words_in_their_names() {
        let of = |name, names: &[&'static str], split| files(&id(name), "main", names, None, split);
        let names = [
            "README.md",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
            "dev.csv",
            "train.zip",
        ];
        assert_eq!(of("a/b", &names, "train").unwrap(), [names[1], names[2]]);
        assert_eq!(of("a/b", &names, "validation").unwrap(), ["dev.csv"]);
        assert_eq!(
            of("a/b", &["rows.jsonl.gz", "more.json"], "train").unwrap(),
            ["more.json", "rows.jsonl.gz"]
        );
        assert_eq!(of("a/b:en", &["en/train.csv", "de/train.csv"], "train").unwrap(), ["en/train.csv"]);
        for (name, names, split, what) in [
            ("a/b", &names[..], "other", "a/b has no split other"),
            ("a/b:x", &names, "train", "a/b has no config x: no folder of that name"),
            ("a/b", &["README.md", "../up.jsonl"], "train", "a/b has no files with rows"),
            ("a/b", &["rows.jsonl"], "test", "a/b has no split test"),
        ] {
            assert_eq!(of(name, names, split).unwrap_err().to_string(), what);
        }
    }

    #[test]
    fn the_card_of_a_dataset_says_which_files_hold_a_split() {
        let yaml = |text: &str| Card::read("a/b", &format!("---\nlicense: mit\n{text}\n---\n# Rows\n"));
        let card = yaml(
            "configs:\n- config_name: en\n  data_files:\n  - split: train\n    path: \"data/*.csv\"\n  - split: held\n    \
             path:\n    - out/a.jsonl\n    - out/**/b.jsonl.gz\n  sep: \";\"\n- config_name: de\n  default: true\n  data_files: de.json\n\
             - config_name: fr\n  data_dir: fr\n",
        );
        let names = [
            "README.md",
            "data/x.csv",
            "data/more/y.csv",
            "de.json",
            "fr/test.csv",
            "fr/train.csv",
            "out/a.jsonl",
            "out/in/b.jsonl.gz",
            "train.csv",
        ];
        let of = |name, split| files(&id(name), "main", &names, card.as_ref(), split);
        assert_eq!(of("a/b:en", "train").unwrap(), ["data/x.csv"]);
        assert_eq!(of("a/b:en", "held").unwrap(), ["out/a.jsonl", "out/in/b.jsonl.gz"]);
        assert_eq!(of("a/b", "train").unwrap(), ["de.json"]);
        assert_eq!(of("a/b:fr", "train").unwrap(), ["fr/train.csv"]);
        for (name, split, what) in [
            ("a/b:en", "test", "a/b has no split test"),
            ("a/b:x", "train", "a/b has no config x"),
            ("a/b:fr", "validation", "a/b has no split validation"),
        ] {
            assert_eq!(of(name, split).unwrap_err().to_string(), what);
        }
        let gone =
            yaml("configs:\n- config_name: default\n  data_files:\n  - {split: train, path: gone/*}\n");
        let gone = files(&id("a/b"), "main", &names, gone.as_ref(), "train").unwrap_err();
        assert_eq!(gone.to_string(), "a/b: no file with rows matches gone/*, the split train of its card");
        // Without configs, or with some that are none, names decide.
        for text in ["tags: [a]", "configs: 3", "configs:\n- config_name: [", "configs: []"] {
            assert!(yaml(text).is_none(), "{text}");
        }
        assert!(Card::read("a/b", "# Rows\n").is_none());
    }
}
