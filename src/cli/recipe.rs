//! A recipe, with the flags that stand for its keys laid over it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::common::Common;
use crate::config::Config;
use crate::error::Result;

/// Flags that stand for keys of a recipe.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Override a key of the recipe; may be given more than once
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Directory, .gguf file or Hugging Face id
    #[arg(long)]
    model: Option<String>,
    /// Training rows, JSONL
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

impl RecipeArgs {
    pub fn is_given(&self) -> bool {
        !self.set.is_empty() || self.model.is_some() || self.data.is_some()
    }
}

/// The recipe at `path` with the flags laid over it.
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
