//! The `[data]` table of a configuration file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::limits::Overlong;
use super::tasks::{Task, TaskConfig};
use crate::error::Result;

/// Data to train and evaluate on, and the task that its rows are read as.
// The keys of a `TaskConfig` are written out: serde cannot flatten a table and also refuse an unknown key with its
// line and the known names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Training rows: a JSONL file, one JSON object a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// Rows to evaluate on: a JSONL file. The scales with the lowest loss on it become `best/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<PathBuf>,
    /// Number of rows of `train` that are set aside for evaluation if there is no `dev`: the tail of a permutation
    /// that the run's seed decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_size: Option<usize>,
    /// Name of a built-in task: sst2, rte, cb, boolq, wsc, wic, multirc, copa, record, squad or drop. It brings its
    /// own prompt, choices, label and completion, so that these stay unset.
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
    /// Treatment of longer rows: `drop` leaves them out, `truncate` cuts their prompt from the left. By default, rows
    /// beyond `max_seq_length` are dropped; without `max_seq_length`, rows beyond the context are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong: Option<Overlong>,
}

impl DataConfig {
    /// The task that the table describes.
    ///
    /// # Errors
    /// Keys that are missing, contradict each other or name no task.
    pub fn task(&self) -> Result<Task> {
        Task::new(&TaskConfig {
            task: self.task.clone(),
            prompt: self.prompt.clone(),
            choices: self.choices.clone(),
            label: self.label.clone(),
            completion: self.completion.clone(),
        })
    }
}
