//! Recipes, and the flags that override their keys.

use std::path::{Path, PathBuf};

use clap::Args;

use super::common::Common;
use crate::config::Config;
use crate::error::{Error, Result};

/// Flags that override keys of a recipe.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Override a key of the recipe; may be given more than once
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Model: a directory, a .gguf file or a Hugging Face id
    #[arg(long)]
    model: Option<String>,
    /// Training data: a JSONL file
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

impl RecipeArgs {
    /// Whether any of the flags is given.
    pub fn is_given(&self) -> bool {
        !self.set.is_empty() || self.model.is_some() || self.data.is_some()
    }

    /// The error for flags that are given without a recipe.
    pub fn without_recipe(&self) -> Error {
        Error::Usage("--set, --model and --data belong to a recipe: give --config".to_string())
    }
}

/// Loads the recipe at `path` and overrides its keys by the flags.
pub fn recipe(path: &Path, args: &RecipeArgs, output: Option<&Path>, common: &Common) -> Result<Config> {
    let text = |value: &str| toml::Value::from(value).to_string();
    let flags = [
        ("model", args.model.as_deref().map(text)),
        ("data.train", args.data.as_ref().map(|path| text(&path.to_string_lossy()))),
        ("output_dir", output.map(|path| text(&path.to_string_lossy()))),
        ("device", common.device.map(|device| text(&device.to_string()))),
        ("dtype", common.dtype.map(|dtype| text(&dtype.to_string()))),
        ("seed", common.seed.map(|seed| seed.to_string())),
    ];
    let flags = flags.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
    Config::load(path, &args.set.iter().cloned().chain(flags).collect::<Vec<_>>())
}
