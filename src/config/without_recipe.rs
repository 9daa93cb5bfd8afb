//! The configuration of a run that is given by a model and its data alone.

use std::path::{Path, PathBuf};

use toml::Table;

use super::{Config, OpenValues};
use crate::data::{Overlong, STDIN};
use crate::error::Result;

/// Longest row in tokens. Longer ones are truncated.
const MAX_SEQ_LENGTH: usize = 2048;

impl Config {
    /// The configuration of a run without a recipe, from `section.key=value` settings. What they leave out is chosen once
    /// the data is known.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn without_recipe(settings: &[String]) -> Result<Self> {
        let mut table = Table::new();
        let mut config = Self::of_table(&mut table, settings)?;
        let is_set =
            |section: &str, key: &str| table.get(section).is_some_and(|section| section.get(key).is_some());
        if !table.contains_key("output_dir") {
            config.output_dir = config.named_output();
        }
        if !is_set("data", "max_seq_length") && !is_set("data", "overlong") {
            config.data.max_seq_length = Some(MAX_SEQ_LENGTH);
            config.data.overlong = Some(Overlong::Truncate);
        }
        config.open = OpenValues {
            max_steps: !is_set("train", "max_steps") && !is_set("train", "num_train_epochs"),
            dev: config.data.dev.is_none() && config.data.dev_size.is_none(),
            quantize: config.quantize.is_none(),
        };
        config.validate()?;
        Ok(config)
    }

    /// A run directory that is named after the model and the data.
    fn named_output(&self) -> PathBuf {
        let stem = |name: &str| {
            let last = name.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or_default();
            let stem = last.split(['@', ':']).next().unwrap_or_default();
            let endings = [".gz", ".zst", ".gguf", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"];
            endings.iter().fold(stem, |stem, ending| stem.strip_suffix(ending).unwrap_or(stem)).to_owned()
        };
        let data = self.data.train.as_ref().and_then(|files| files.0.first()).filter(|name| *name != STDIN);
        let data = data.map(|name| stem(name)).or(self.data.task.clone());
        let names = [Some(stem(&self.model)), data].into_iter().flatten().filter(|name| !name.is_empty());
        Path::new("runs").join(names.collect::<Vec<_>>().join("-"))
    }
}
