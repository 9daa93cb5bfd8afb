//! Recipes, and the flags that override their keys or stand in for a recipe.

use std::path::Path;

use clap::Args;
use toml::Value;

use super::common::Common;
use crate::config::Config;
use crate::data::TaskConfig;
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
    /// Training rows: JSONL, JSON, CSV, TSV or parquet (- is standard input), or a dataset of the Hugging Face hub
    /// (org/name, org/name:config); may be given more than once
    #[arg(long, value_name = "FILE")]
    data: Vec<String>,
}

impl RecipeArgs {
    /// Whether any of the flags is given.
    pub fn is_given(&self) -> bool {
        !self.set.is_empty() || self.model.is_some() || !self.data.is_empty()
    }

    /// The error for flags that are given without a recipe.
    pub fn without_recipe(&self) -> Error {
        Error::Usage("--set, --model and --data belong to a recipe: give --config".to_string())
    }

    /// The recipe at `path` with its keys overridden by the flags.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn recipe(&self, path: &Path, common: &Common) -> Result<Config> {
        Config::load(path, &self.settings(common, &[]))
    }

    /// The flags as `section.key=value`, after those of `--set`.
    fn settings(&self, common: &Common, more: &[(&str, Option<Value>)]) -> Vec<String> {
        let text = |value: &str| Value::from(value);
        let flags = [
            ("model", self.model.as_deref().map(text)),
            ("data.train", files(&self.data)),
            ("device", common.device.map(|device| text(&device.to_string()))),
            ("dtype", common.dtype.map(|dtype| text(&dtype.to_string()))),
            ("seed", common.seed.map(|seed| Value::String(seed.to_string()))),
        ];
        let flags = flags.iter().chain(more).filter_map(|(key, value)| {
            let value = value.as_ref()?;
            Some(match (*key, value) {
                // A seed may be larger than TOML's integers, as which it is read.
                ("seed", Value::String(seed)) => format!("seed={seed}"),
                _ => format!("{key}={value}"),
            })
        });
        self.set.iter().cloned().chain(flags).collect()
    }
}

/// One name as a text, several as a list.
fn files(names: &[String]) -> Option<Value> {
    match names {
        [] => None,
        [one] => Some(one.as_str().into()),
        several => Some(several.to_vec().into()),
    }
}

/// A run by its recipe, or by a model and its data alone.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Model: a directory, a .gguf file or a Hugging Face id
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    of: Option<String>,
    /// Recipe; configs/ has examples
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Rows to evaluate on [default without a recipe: a tenth of the training rows]
    #[arg(long, value_name = "FILE")]
    dev: Vec<String>,
    #[command(flatten)]
    task: TaskConfig,
    /// Chat template (Jinja) in place of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<String>,
}

impl RunArgs {
    /// The configuration of the run.
    ///
    /// # Errors
    /// Neither a recipe nor a model with its data is given; those of [`Config::load`].
    pub fn config(&self, output: Option<&Path>, common: &Common) -> Result<Config> {
        let text = |value: &Option<String>| value.as_deref().map(Value::from);
        let TaskConfig { task, prompt, choices, label, completion, format } = &self.task;
        let settings = self.recipe.settings(
            common,
            &[
                ("model", text(&self.of)),
                ("output_dir", output.map(|path| Value::from(&*path.to_string_lossy()))),
                ("data.dev", files(&self.dev)),
                ("data.task", text(task)),
                ("data.prompt", text(prompt)),
                ("data.choices", choices.clone().map(Value::from)),
                ("data.label", text(label)),
                ("data.completion", text(completion)),
                ("data.format", format.map(|format| format.name().into())),
                ("data.chat_template", text(&self.chat_template)),
            ],
        );
        match &self.config {
            Some(path) => Config::load(path, &settings),
            None if self.of.is_none() && self.recipe.model.is_none() => Err(Error::Usage(
                "give a model and its data, as in `qzo finetune MODEL --data rows.jsonl`, or a recipe (--config)".into(),
            )),
            None if self.recipe.data.is_empty() && self.task.task.is_none() => Err(Error::Usage(
                "give the training rows, as in `qzo finetune MODEL --data rows.jsonl`, or a recipe (--config)".into(),
            )),
            None => Config::without_recipe(&settings),
        }
    }
}
