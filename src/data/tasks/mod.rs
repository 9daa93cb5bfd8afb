//! Tasks: how a row of a dataset becomes a question with candidates, a completion, or an answer to
//! generate. The built-in prompts are MeZO's (Malladi et al. 2023; `large_models/templates.py`,
//! `tasks.py`), for rows with the fields that the datasets have on the Hugging Face hub.
//!
//! To add a task: one variant of `Builtin`, its name, its arm in `example`, a row in the tests.

use serde_json::Value;

use super::batch::Objective;
use super::dataset::Row;
use super::label::{class_index, label_index};
use super::prompt::PromptTemplate;
use crate::error::{Error, Result, nearest};

/// One row, ready to be tokenized. A candidate's or completion's text follows its prompt directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Example {
    /// `gold` are indices into `options`; more than one where several are right.
    Classification { prompt: String, options: Vec<String>, gold: Vec<usize> },
    /// EOS follows the completion.
    Completion { prompt: String, completion: String },
    /// Generated greedily up to a line end, and compared with every gold answer.
    Generation { prompt: String, answers: Vec<String> },
}

/// What a configuration or a command line says of a task.
#[derive(Debug, Clone, Copy, Default)]
pub struct TaskSpec<'a> {
    pub task: Option<&'a str>,
    pub prompt: Option<&'a str>,
    pub choices: Option<&'a [String]>,
    pub label: Option<&'a str>,
    pub completion: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    Choices { prompt: PromptTemplate, choices: Vec<String>, label: String },
    Completion { prompt: PromptTemplate, field: String },
    Builtin(Builtin),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    Sst2,
    Rte,
    Cb,
    BoolQ,
    Wsc,
    Wic,
    MultiRc,
    Copa,
    Record,
    Squad,
    Drop,
}

impl Task {
    /// # Errors
    /// Where keys are missing, contradict each other or name no task.
    pub fn new(spec: TaskSpec) -> Result<Self> {
        let TaskSpec { task, prompt, choices, label, completion } = spec;
        let invalid = |what: &str| Err(Error::invalid(what, HELP));
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
                Ok(Self::Choices {
                    prompt,
                    choices: choices.to_vec(),
                    label: label.unwrap_or("label").to_string(),
                })
            }
            (None, Some(prompt), None, Some(field)) if label.is_none() => {
                Ok(Self::Completion { prompt: PromptTemplate::parse(prompt)?, field: field.to_string() })
            }
            (None, _, Some(_), Some(_)) => invalid("choices and completion exclude each other"),
            (None, _, None, Some(_)) if label.is_some() => invalid("label needs choices, not completion"),
            (None, None, ..) => invalid("no task and no prompt"),
            (None, Some(_), None, _) => invalid("a prompt without choices and without completion"),
        }
    }

    /// `sst2`, … for a built-in task.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Choices { .. } => "choices",
            Self::Completion { .. } => "completion",
            Self::Builtin(task) => task.name(),
        }
    }

    /// The candidates, where they are the same for every row.
    pub fn choices(&self) -> Vec<&str> {
        match self {
            Self::Choices { choices, .. } => choices.iter().map(String::as_str).collect(),
            Self::Completion { .. } => Vec::new(),
            Self::Builtin(task) => task.choices().to_vec(),
        }
    }

    /// What the loss of a batch of this task is.
    pub fn objective(&self) -> Objective {
        match self {
            Self::Choices { .. } => Objective::Classification,
            Self::Completion { .. } => Objective::Completion,
            Self::Builtin(_) if self.is_generation() => Objective::Completion,
            Self::Builtin(_) => Objective::Classification,
        }
    }

    /// Whether rows are answered by generating, not by choosing.
    pub fn is_generation(&self) -> bool {
        matches!(self, Self::Builtin(Builtin::Squad | Builtin::Drop))
    }

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
                let completion = row.text(field)?.to_string();
                if completion.is_empty() {
                    return Err(row.wrong(field, "a completion of one character or more"));
                }
                Ok(Example::Completion { prompt: prompt.fill(row)?, completion })
            }
            Self::Builtin(task) => task.example(row),
        }
    }
}

const HELP: &str = "give a built-in task; or a prompt with choices; or a prompt with a completion field";

fn check_choices(choices: &[String]) -> Result<()> {
    let invalid = |what: String| Err(Error::invalid(what, "choices are texts that differ, two or more"));
    if choices.len() < 2 {
        return invalid(format!("choices: expected two or more, got {}", choices.len()));
    }
    for (i, choice) in choices.iter().enumerate() {
        if choice.is_empty() || choices[..i].contains(choice) {
            return invalid(format!(
                "choices: \"{choice}\" is {}",
                if choice.is_empty() { "empty" } else { "there twice" }
            ));
        }
    }
    Ok(())
}

impl Builtin {
    pub const ALL: [Self; 11] = [
        Self::Sst2,
        Self::Rte,
        Self::Cb,
        Self::BoolQ,
        Self::Wsc,
        Self::Wic,
        Self::MultiRc,
        Self::Copa,
        Self::Record,
        Self::Squad,
        Self::Drop,
    ];

    pub fn named(name: &str) -> Result<Self> {
        let names = || Self::ALL.iter().map(|task| task.name());
        Self::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| {
            let hint = nearest(name, names()).map(|n| format!("; nearest is {n}")).unwrap_or_default();
            let known = names().collect::<Vec<_>>().join(", ");
            Error::invalid(format!("no task `{name}`{hint}"), format!("tasks: {known}"))
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sst2 => "sst2",
            Self::Rte => "rte",
            Self::Cb => "cb",
            Self::BoolQ => "boolq",
            Self::Wsc => "wsc",
            Self::Wic => "wic",
            Self::MultiRc => "multirc",
            Self::Copa => "copa",
            Self::Record => "record",
            Self::Squad => "squad",
            Self::Drop => "drop",
        }
    }

    fn choices(self) -> &'static [&'static str] {
        match self {
            Self::Sst2 => &[" terrible", " great"],
            Self::Rte | Self::BoolQ => &["Yes", "No"],
            Self::Cb => &["Yes", "No", "Maybe"],
            Self::Wsc | Self::Wic | Self::MultiRc => &["No", "Yes"],
            Self::Copa | Self::Record | Self::Squad | Self::Drop => &[],
        }
    }

    fn example(self, row: &Row) -> Result<Example> {
        let text = |field: &str| row.text(field);
        let fixed = |prompt: String| self.classification(row, prompt);
        match self {
            Self::Sst2 => fixed(format!("{} It was", text("sentence")?.trim())),
            Self::Rte => fixed(format!(
                "{}\nDoes this mean that \"{}\" is true? Yes or No?\n",
                text("premise")?,
                text("hypothesis")?
            )),
            Self::Cb => fixed(format!(
                "Suppose {} Can we infer that \"{}\"? Yes, No, or Maybe?\n",
                text("premise")?,
                text("hypothesis")?
            )),
            Self::BoolQ => fixed(format!("{} {}\n", text("passage")?, as_question(text("question")?))),
            Self::Wsc => fixed(format!(
                "{}\nIn the previous sentence, does the pronoun \"{}\" refer to {}? Yes or No?\n",
                text("text")?,
                text("span2_text")?.to_lowercase(),
                text("span1_text")?
            )),
            Self::Wic => fixed(format!(
                "Does the word \"{}\" have the same meaning in these two sentences? Yes, No?\n{}\n{}\n",
                text("word")?,
                text("sentence1")?,
                text("sentence2")?
            )),
            Self::MultiRc => fixed(format!(
                "{}\nQuestion: {}\nI found this answer \"{}\". Is that correct? Yes or No?\n",
                text("paragraph")?,
                text("question")?,
                text("answer")?
            )),
            Self::Copa => copa(row),
            Self::Record => record(row),
            Self::Squad => Ok(Example::Generation {
                prompt: trimmed(&format!(
                    "Title: {}\nContext: {}\nQuestion: {}\nAnswer:",
                    text("title")?,
                    text("context")?,
                    text("question")?.trim()
                )),
                answers: row.texts(&["answers", "text"])?,
            }),
            Self::Drop => Ok(Example::Generation {
                prompt: trimmed(&format!(
                    "Passage: {}\nQuestion: {}\nAnswer:",
                    text("passage")?,
                    text("question")?.trim()
                )),
                answers: row.texts(&["answers_spans", "spans"])?,
            }),
        }
    }

    fn classification(self, row: &Row, prompt: String) -> Result<Example> {
        let options: Vec<String> = self.choices().iter().map(|choice| choice.to_string()).collect();
        // BoolQ on the hub has `answer`, in SuperGLUE `label`; true is "Yes", the first candidate.
        let gold = match (self, row.fields.get("answer")) {
            (Self::BoolQ, Some(Value::Bool(answer))) => usize::from(!answer),
            (Self::BoolQ, Some(_)) => return Err(row.wrong("answer", "true or false")),
            (Self::BoolQ, None) => 1 - label_index(row, "label", &["false".into(), "true".into()])?,
            _ => label_index(row, "label", &options)?,
        };
        Ok(Example::Classification { prompt: trimmed(&prompt), options, gold: vec![gold] })
    }
}

/// MeZO strips white space before a prompt and spaces after it, but no line end.
fn trimmed(prompt: &str) -> String {
    prompt.trim_start().trim_end_matches(' ').to_string()
}

/// First letter in upper case, a question mark at the end.
fn as_question(question: &str) -> String {
    let mut chars = question.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}{}", chars.as_str(), if question.ends_with('?') { "" } else { "?" })
}

fn copa(row: &Row) -> Result<Example> {
    let conjunction = match row.text("question")? {
        "effect" => "so",
        "cause" => "because",
        _ => return Err(row.wrong("question", "\"cause\" or \"effect\"")),
    };
    let premise = row.text("premise")?.trim_end();
    let premise = premise.strip_suffix('.').unwrap_or(premise);
    let option = |choice: &str| {
        let (first, rest) = choice.split_at(choice.find(' ').unwrap_or(choice.len()));
        let first = if first == "I" { first.to_string() } else { first.to_lowercase() };
        format!(" {first}{}", rest.trim_end_matches(' '))
    };
    let choices = [row.text("choice1")?.to_string(), row.text("choice2")?.to_string()];
    let gold = match row.field("label")? {
        Value::String(_) => label_index(row, "label", &choices)?,
        _ => class_index(row, "label", choices.len())?,
    };
    Ok(Example::Classification {
        prompt: trimmed(&format!("{premise} {conjunction}")),
        gold: vec![gold],
        options: choices.iter().map(|choice| option(choice)).collect(),
    })
}

/// Every entity of the passage in the place of the query's gap; the whole query is scored.
fn record(row: &Row) -> Result<Example> {
    let passage = row.text("passage")?.replace("@highlight\n", "- ");
    let query = row.text("query")?;
    let (entities, answers) = (row.texts(&["entities"])?, row.texts(&["answers"])?);
    let gold: Vec<usize> = (0..entities.len()).filter(|&i| answers.contains(&entities[i])).collect();
    if gold.is_empty() {
        return Err(row.wrong("answers", "one or more of the row's entities"));
    }
    let option =
        |entity: &String| format!(" {}", query.replace("@placeholder", entity).trim_end_matches(' '));
    Ok(Example::Classification {
        prompt: trimmed(&format!("{passage}\n-")),
        options: entities.iter().map(option).collect(),
        gold,
    })
}

#[cfg(test)]
mod tests;
