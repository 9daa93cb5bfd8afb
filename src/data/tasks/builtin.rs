//! The built-in tasks. Their prompts are MeZO's (Malladi et al. 2023; `large_models/templates.py`, `tasks.py`), for
//! rows with the fields that the datasets have on the Hugging Face hub.
//!
//! To add a task: a variant of [`Builtin`], an arm in each `match` on it, and a case in the tests.

use serde_json::Value;

use super::example::Example;
use super::label::{class_index, label_index};
use crate::data::row::Row;
use crate::error::{Error, Result, nearest};

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

    /// # Errors
    /// A name of no built-in task, with the nearest one.
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

    /// The dataset on the Hugging Face hub that has the task's rows.
    pub fn dataset(self) -> &'static str {
        match self {
            Self::Sst2 => "nyu-mll/glue:sst2",
            Self::Rte => "aps/super_glue:rte",
            Self::Cb => "aps/super_glue:cb",
            Self::BoolQ => "aps/super_glue:boolq",
            Self::Wsc => "aps/super_glue:wsc.fixed",
            Self::Wic => "aps/super_glue:wic",
            Self::MultiRc => "aps/super_glue:multirc",
            Self::Copa => "aps/super_glue:copa",
            Self::Record => "aps/super_glue:record",
            Self::Squad => "rajpurkar/squad",
            Self::Drop => "ucinlp/drop",
        }
    }

    /// The task whose rows have the fields of this one.
    pub fn for_row(row: &Row) -> Option<Self> {
        let has = |field: &&str| row.fields.contains_key(*field);
        Self::ALL.into_iter().find(|task| task.fields().iter().all(has))
    }

    /// The fields that every row has.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Sst2 => &["sentence", "label"],
            // CB has the fields of RTE, and a third label.
            Self::Rte | Self::Cb => &["premise", "hypothesis", "label"],
            Self::BoolQ => &["passage", "question", "answer"],
            Self::Wsc => &["text", "span1_text", "span2_text", "label"],
            Self::Wic => &["word", "sentence1", "sentence2", "label"],
            Self::MultiRc => &["paragraph", "question", "answer", "label"],
            Self::Copa => &["premise", "choice1", "choice2", "question", "label"],
            Self::Record => &["passage", "query", "entities", "answers"],
            Self::Squad => &["title", "context", "question", "answers"],
            Self::Drop => &["passage", "question", "answers_spans"],
        }
    }

    /// The choices if they are the same for every row; else none.
    pub fn choices(self) -> &'static [&'static str] {
        match self {
            Self::Sst2 => &[" terrible", " great"],
            Self::Rte | Self::BoolQ => &["Yes", "No"],
            Self::Cb => &["Yes", "No", "Maybe"],
            Self::Wsc | Self::Wic | Self::MultiRc => &["No", "Yes"],
            Self::Copa | Self::Record | Self::Squad | Self::Drop => &[],
        }
    }

    /// The example of a row.
    ///
    /// # Errors
    /// A field that is missing or of the wrong kind, and a label outside the choices, at the row's line.
    pub fn example(self, row: &Row) -> Result<Example> {
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

/// Strips white space before a prompt and spaces after it, but no line end, as MeZO does.
fn trimmed(prompt: &str) -> String {
    prompt.trim_start().trim_end_matches(' ').to_string()
}

/// Sets the first letter in upper case and a question mark at the end.
fn as_question(question: &str) -> String {
    let mut chars = question.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}{}", chars.as_str(), if question.ends_with('?') { "" } else { "?" })
}

/// The premise and a choice become one sentence.
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

/// An option is the whole query with an entity of the passage in the place of its gap.
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
