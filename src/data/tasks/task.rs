//! The task that a configuration describes: how a row becomes an example.

use super::builtin::Builtin;
use super::config::TaskConfig;
use super::example::Example;
use super::format::RowFormat;
use super::label::label_index;
use super::prompt::PromptTemplate;
use crate::data::loss::LossKind;
use crate::data::row::Row;
use crate::data::source::FORMATS;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    Choices {
        prompt: PromptTemplate,
        choices: Vec<String>,
        label: String,
    },
    Completion {
        prompt: PromptTemplate,
        field: String,
    },
    Builtin(Builtin),
    /// Rows of a shape that needs no prompt. `is_chat`: their texts are put into the model's chat template.
    Shaped {
        format: RowFormat,
        is_chat: bool,
    },
}

impl Task {
    /// The task that the settings describe or, if they describe none, that of the rows' shape.
    ///
    /// # Errors
    /// Settings that contradict each other or name no task, and rows of no known shape.
    pub fn of_rows(config: &TaskConfig, rows: &[Row], tokenizer: &Tokenizer) -> Result<Self> {
        if *config != (TaskConfig { format: config.format, ..TaskConfig::default() }) {
            return Self::new(config);
        }
        let first = rows.first().ok_or_else(|| Error::invalid("no rows", FORMATS))?;
        let format = config.format.map_or_else(|| RowFormat::detect(first), Ok)?;
        let is_chat = tokenizer.chat_template().is_some() && format.is_chat(first);
        Ok(Self::Shaped { format, is_chat })
    }

    /// The task that the settings describe.
    ///
    /// # Errors
    /// Settings that are missing, contradict each other or name no task.
    pub fn new(config: &TaskConfig) -> Result<Self> {
        let TaskConfig { task, prompt, choices, label, completion, format } = config;
        let invalid = |what: &str| Err(Error::invalid(what, HELP));
        if let Some(format) = format {
            return invalid(&format!("format = \"{}\" excludes a task and a prompt", format.name()));
        }
        match (task, prompt, choices, completion) {
            (Some(name), None, None, None) if label.is_none() => Builtin::named(name).map(Self::Builtin),
            (Some(name), ..) => {
                invalid(&format!("task = \"{name}\" has its own prompt, choices, label and completion"))
            }
            (None, Some(prompt), Some(choices), None) => {
                check_choices(choices)?;
                let prompt = PromptTemplate::parse(prompt)?;
                if prompt.is_constant() {
                    return invalid("the prompt names no {field}: every row would be the same question");
                }
                let label = label.clone().unwrap_or_else(|| "label".to_string());
                Ok(Self::Choices { prompt, choices: choices.clone(), label })
            }
            (None, Some(prompt), None, Some(field)) if label.is_none() => {
                Ok(Self::Completion { prompt: PromptTemplate::parse(prompt)?, field: field.clone() })
            }
            (None, _, Some(_), Some(_)) => invalid("choices and completion exclude each other"),
            (None, _, None, Some(_)) if label.is_some() => invalid("label needs choices, not completion"),
            (None, None, ..) => invalid("choices, label and completion need a prompt"),
            (None, Some(_), None, _) => invalid("a prompt without choices and without completion"),
        }
    }

    /// Name in reports: that of a built-in task or of the rows' shape, `choices` or `completion`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Choices { .. } => "choices",
            Self::Completion { .. } => "completion",
            Self::Builtin(task) => task.name(),
            Self::Shaped { format, .. } => format.name(),
        }
    }

    /// The choices if they are the same for every row; else none.
    pub fn choices(&self) -> Vec<&str> {
        match self {
            Self::Choices { choices, .. } => choices.iter().map(String::as_str).collect(),
            Self::Completion { .. } | Self::Shaped { .. } => Vec::new(),
            Self::Builtin(task) => task.choices().to_vec(),
        }
    }

    /// Definition of the loss of a batch of this task.
    pub fn loss_kind(&self) -> LossKind {
        match self {
            Self::Choices { .. } => LossKind::Classification,
            Self::Completion { .. } | Self::Shaped { .. } => LossKind::Completion,
            Self::Builtin(_) if self.is_generation() => LossKind::Completion,
            Self::Builtin(_) => LossKind::Classification,
        }
    }

    /// Whether the rows have a shape that needs no prompt.
    pub fn is_shaped(&self) -> bool {
        matches!(self, Self::Shaped { .. })
    }

    /// Whether answers are generated, not chosen.
    pub fn is_generation(&self) -> bool {
        matches!(self, Self::Builtin(Builtin::Squad | Builtin::Drop))
    }

    /// The example of a row.
    ///
    /// # Errors
    /// A field that is missing or of the wrong kind, and a label outside the choices, at the row's line.
    pub fn example(&self, row: &Row) -> Result<Example> {
        match self {
            Self::Choices { prompt, choices, label } => Ok(Example::Classification {
                prompt: prompt.fill(row)?,
                gold: vec![label_index(row, label, choices)?],
                options: choices.clone(),
            }),
            Self::Completion { prompt, field } => {
                let completion = row.written(field)?;
                if completion.is_empty() {
                    return Err(row.wrong(field, "a completion of one character or more"));
                }
                Ok(Example::Completion { prompt: prompt.fill(row)?, completion })
            }
            Self::Builtin(task) => task.example(row),
            Self::Shaped { format, is_chat } => format.example(row, *is_chat),
        }
    }
}

const HELP: &str = "give a built-in task; or a prompt with choices; or a prompt with a completion field; or the rows' format";

fn check_choices(choices: &[String]) -> Result<()> {
    let invalid = |what: String| Err(Error::invalid(what, "give two or more choices, all of them different"));
    if choices.len() < 2 {
        return invalid(format!("choices: expected two or more, got {}", choices.len()));
    }
    for (i, choice) in choices.iter().enumerate() {
        if choice.is_empty() || choices[..i].contains(choice) {
            return invalid(format!(
                "choices: \"{choice}\" is {}",
                if choice.is_empty() { "empty" } else { "given twice" }
            ));
        }
    }
    Ok(())
}
