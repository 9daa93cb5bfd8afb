//! The `[data]` table of a configuration file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::tasks::{Task, TaskSpec};
use crate::error::Result;

/// What happens to a row that, with its longest candidate, is longer than `max_seq_length` or the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The row is left out, and counted.
    #[default]
    Drop,
    /// The prompt loses tokens from its left; the BOS token and the scored tokens stay.
    Truncate,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// JSONL, one object a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<PathBuf>,
    /// Without `dev`: rows of `train` set aside, the tail of a seeded permutation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_size: Option<usize>,
    /// A built-in task; then prompt, choices, label and completion stay unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Text with `{field}` placeholders; `{{` and `}}` stand for braces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// Field with the index into `choices` or the choice itself; "label" where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Field with the text to be learned after the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// Tokens, prompt and scored tokens together; the model's context where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_length: Option<usize>,
    /// What happens to longer rows. Unset: rows beyond `max_seq_length` are dropped; without that key they are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong: Option<Overlong>,
}

impl DataConfig {
    /// The task that the table describes.
    ///
    /// # Errors
    /// Where keys are missing or contradict each other.
    pub fn task(&self) -> Result<Task> {
        Task::new(TaskSpec {
            task: self.task.as_deref(),
            prompt: self.prompt.as_deref(),
            choices: self.choices.as_deref(),
            label: self.label.as_deref(),
            completion: self.completion.as_deref(),
        })
    }
}
