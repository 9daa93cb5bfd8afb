//! The `configs` of a dataset's card: which of its own files hold a split, as the YAML at the start of README.md says.
//!
//! ```yaml
//! configs:
//! - config_name: default
//!   data_files:
//!   - split: train
//!     path: "data/*.csv"
//! ```
//!
//! Source: the hub's documentation, "Manual Configuration"; `datasets` 4.0, `utils/metadata.py`.

use std::collections::BTreeMap;

use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Name of the file at whose start the card stands.
pub const CARD_FILE: &str = "README.md";

/// The `configs` of a card.
#[derive(Debug, Default, Deserialize)]
pub struct Card {
    #[serde(default)]
    pub configs: Vec<CardConfig>,
}

/// A part of a dataset.
#[derive(Debug, Deserialize)]
pub struct CardConfig {
    pub config_name: String,
    /// Whether it is meant where no config is named.
    #[serde(default)]
    default: bool,
    data_files: Option<CardFiles>,
    /// A folder, in which the names of files say their splits.
    pub data_dir: Option<String>,
    /// Settings of the program that reads the files, such as the separator of CSV.
    #[serde(flatten)]
    reading: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum CardFiles {
    /// Patterns of all files, which are the split `train`.
    Train(Patterns),
    Splits(Vec<SplitFiles>),
}

#[derive(Debug, Deserialize)]
struct SplitFiles {
    split: String,
    path: Patterns,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Several(Vec<String>),
}

impl Card {
    /// Reads the card of a README; `None` if it has no `configs`. One that cannot be read is as good as none, with a warning.
    pub fn read(dataset: &str, readme: &str) -> Option<Self> {
        let readme = readme.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let (yaml, _) = readme.strip_prefix("---\n")?.split_once("\n---")?;
        if !yaml.lines().any(|line| line.starts_with("configs:")) {
            return None;
        }
        let read = serde_saphyr::from_str::<Self>(yaml);
        let card = read.map_err(|error| {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            tracing::warn!("{dataset}: the configs of {CARD_FILE} cannot be read ({first}): files are found by their names");
        });
        card.ok().filter(|card| !card.configs.is_empty())
    }

    /// The config of a name or, without one, that which the card means: the default or the only one.
    pub fn config(&self, name: Option<&str>) -> Option<&CardConfig> {
        let named = |name: &str| self.configs.iter().find(|config| config.config_name == name);
        match (name, &self.configs[..]) {
            (Some(name), _) => named(name),
            (None, [one]) => Some(one),
            (None, several) => several.iter().find(|config| config.default).or_else(|| named("default")),
        }
    }
}

impl CardConfig {
    /// The patterns of the files of each split; `None` if their names say it.
    pub fn splits(&self) -> Option<Vec<(&str, Vec<&str>)>> {
        Some(match self.data_files.as_ref()? {
            CardFiles::Train(patterns) => vec![("train", patterns.all())],
            CardFiles::Splits(splits) => {
                splits.iter().map(|files| (files.split.as_str(), files.path.all())).collect()
            }
        })
    }

    /// Whether a file of the repository matches a pattern of this config.
    pub fn matches(&self, pattern: &str, file: &str) -> bool {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
        let folder = self.data_dir.as_deref().unwrap_or_default().trim_matches('/');
        let inside = if folder.is_empty() {
            Some(file)
        } else {
            file.strip_prefix(folder).and_then(|f| f.strip_prefix('/'))
        };
        let Some(inside) = inside else { return false };
        let pattern = pattern.trim_start_matches("./");
        pattern == inside || Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(inside, options))
    }

    /// Warns of settings that qzo does not have.
    pub fn warn_of_settings(&self, dataset: &str) {
        let known = ["version", "description", "drop_labels", "features"];
        let unused: Vec<&str> =
            self.reading.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
        if !unused.is_empty() {
            let (name, unused) = (&self.config_name, unused.join(", "));
            tracing::warn!("{dataset}: the config {name} of {CARD_FILE} sets {unused}, which is not used");
        }
    }
}

impl Patterns {
    fn all(&self) -> Vec<&str> {
        match self {
            Self::One(pattern) => vec![pattern],
            Self::Several(patterns) => patterns.iter().map(String::as_str).collect(),
        }
    }
}
