//! The settings that choose a task.

/// A built-in task by its name; or a prompt with choices; or a prompt with a completion. The fields are keys of the `[data]`
/// table, and flags of `qzo eval`, which require its `--data`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct TaskConfig {
    /// Built-in task: sst2, rte, cb, boolq, wsc, wic, multirc, copa, record, squad, drop
    #[arg(long, requires = "data", conflicts_with = "prompt")]
    pub task: Option<String>,
    /// Prompt with {field} placeholders
    #[arg(long, requires = "data")]
    pub prompt: Option<String>,
    /// A candidate, as it follows the prompt; once per candidate
    #[arg(long = "choice", requires = "prompt", allow_hyphen_values = true)]
    pub choices: Option<Vec<String>>,
    /// Field with the index of the right choice, or the choice itself [default: label]
    #[arg(long, requires = "prompt")]
    pub label: Option<String>,
    /// Field with the text that should follow the prompt
    #[arg(long, requires = "prompt", conflicts_with = "choices")]
    pub completion: Option<String>,
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
