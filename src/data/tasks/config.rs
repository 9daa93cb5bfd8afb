//! The settings that choose a task.

use super::format::RowFormat;

/// A built-in task by its name; or a prompt with choices; or a prompt with a completion; or the shape of the rows. The fields
/// are keys of the `[data]` table, and flags of commands with `--data`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct TaskConfig {
    /// Built-in task: sst2, rte, cb, boolq, wsc, wic, multirc, copa, record, squad, drop
    #[arg(long, conflicts_with_all = ["prompt", "format"])]
    pub task: Option<String>,
    /// Prompt with {field} placeholders
    #[arg(long, conflicts_with = "format")]
    pub prompt: Option<String>,
    /// A candidate, as it follows the prompt; once per candidate
    #[arg(long = "choice", allow_hyphen_values = true)]
    pub choices: Option<Vec<String>>,
    /// Field with the index of the right choice, or the choice itself [default: label]
    #[arg(long)]
    pub label: Option<String>,
    /// Field with the text that should follow the prompt
    #[arg(long, conflicts_with = "choices")]
    pub completion: Option<String>,
    /// Shape of rows that need no prompt [default: by their fields]
    #[arg(long)]
    pub format: Option<RowFormat>,
}

impl TaskConfig {
    /// Whether any of the settings is given.
    pub fn is_given(&self) -> bool {
        *self != Self::default()
    }
}

#[cfg(test)]
impl TaskConfig {
    pub fn of_task(name: &str) -> Self {
        Self { task: Some(name.to_string()), ..Self::default() }
    }

    pub fn of_choices(prompt: &str, choices: &[&str]) -> Self {
        let choices = choices.iter().map(|choice| choice.to_string()).collect();
        Self { prompt: Some(prompt.to_string()), choices: Some(choices), ..Self::default() }
    }

    pub fn of_completion(prompt: &str, field: &str) -> Self {
        Self { prompt: Some(prompt.to_string()), completion: Some(field.to_string()), ..Self::default() }
    }
}
