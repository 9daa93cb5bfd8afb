//! The `[data]` table of a configuration file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files::DataFiles;
use super::limits::Overlong;
use super::row::Row;
use super::tasks::{RowFormat, Task, TaskConfig};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// Data to train and evaluate on, and the task that its rows are read as.
// The keys of a `TaskConfig` are written out: serde cannot flatten a table and also refuse an unknown key with its
// line and the known names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Training rows: a file (JSONL, JSON, CSV, TSV or parquet, also .gz or .zst; "-" is standard input), a dataset of the
    /// Hugging Face hub (org/name, org/name:config, org/name@revision), or a list of these. The default is the dataset of
    /// `task`, with `train_size = 1000` and `dev_size = 500`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<DataFiles>,
    /// Rows to evaluate on, as for `train`. The scales with the lowest loss on them become `best/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<DataFiles>,
    /// Split of `train`, where it is a dataset of the hub. The default is "train".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_split: Option<String>,
    /// Split of `dev`, where it is a dataset of the hub. The default is "validation". Without `dev`, it is a split of `train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_split: Option<String>,
    /// Number of rows of `train` that are set aside for evaluation if there is no `dev`: the tail of a permutation
    /// that the run's seed decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_size: Option<usize>,
    /// Number of rows of `train` that are used, from the start of the same permutation. The default is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_size: Option<usize>,
    /// Shape of rows that need no prompt: messages, conversations, alpaca, prompt-completion, question-answer or text. The
    /// default is what the fields of the first row say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<RowFormat>,
    /// File with a chat template (Jinja) in place of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Name of a built-in task: sst2, rte, cb, boolq, wsc, wic, multirc, copa, record, squad or drop. It brings its
    /// own prompt, choices, label and completion, so that these stay unset, and knows its dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Text before the answer, with `{field}` for the fields of a row; `{{` and `}}` stand for braces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Possible answers, two or more. Each follows the prompt directly, so that most begin with a space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// Field with the right choice: its index in `choices`, or the choice itself. The default is `label`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Field with the text that is learned after the prompt, in place of `choices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// Longest row in tokens, prompt and answer together. The default is the model's context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_length: Option<usize>,
    /// Treatment of longer rows: `drop` leaves them out; `truncate` cuts their prompt from the left, and the end of a chat or
    /// a text. By default, rows beyond `max_seq_length` are dropped; without `max_seq_length`, rows beyond the context are
    /// refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong: Option<Overlong>,
}

impl DataConfig {
    /// The task that the table describes or, if it describes none, that of the rows' shape.
    ///
    /// # Errors
    /// Keys that contradict each other or name no task, and rows of no known shape.
    pub fn task(&self, rows: &[Row], tokenizer: &Tokenizer) -> Result<Task> {
        Task::of_rows(&self.task_config(), rows, tokenizer)
    }

    /// The settings of the task.
    pub fn task_config(&self) -> TaskConfig {
        TaskConfig {
            task: self.task.clone(),
            prompt: self.prompt.clone(),
            choices: self.choices.clone(),
            label: self.label.clone(),
            completion: self.completion.clone(),
            format: self.format,
        }
    }

    /// Puts the chat template that the table names in the place of the model's own.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn set_chat_template(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        if let Some(path) = &self.chat_template {
            tokenizer.set_chat_template(std::fs::read_to_string(path).map_err(Error::io(path, "reading"))?);
        }
        Ok(())
    }
}
