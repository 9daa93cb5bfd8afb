//! The shapes of rows that need no prompt: chats, instructions, prompts with completions, questions with answers, texts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::builtin::Builtin;
use super::example::Example;
use crate::data::chat::{Conversation, Turn};
use crate::data::row::{Row, describe};
use crate::error::{Error, Result};

/// A shape of rows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum RowFormat {
    /// `messages` with `role` and `content`: every turn of the assistant is learned.
    Messages,
    /// ShareGPT: `conversations` with `from` and `value`.
    Conversations,
    /// `instruction`, `input` and `output`, or Dolly's `context` and `response`.
    Alpaca,
    /// `prompt` and `completion`: two texts, or two lists of messages. Two texts are a chat, if the model has a template for it
    /// and there is no white space between them.
    PromptCompletion,
    /// `question` and `answer`.
    QuestionAnswer,
    /// `text`, which is learned as a whole.
    Text,
}

impl RowFormat {
    pub const ALL: [Self; 6] = [
        Self::Messages,
        Self::Conversations,
        Self::Alpaca,
        Self::PromptCompletion,
        Self::QuestionAnswer,
        Self::Text,
    ];

    /// Name in recipes, flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Conversations => "conversations",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt-completion",
            Self::QuestionAnswer => "question-answer",
            Self::Text => "text",
        }
    }

    /// The fields that every row has, each with the names that datasets give it.
    fn fields(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Messages => &[&["messages"]],
            Self::Conversations => &[CONVERSATIONS],
            Self::Alpaca => &[&["instruction"], OUTPUT],
            Self::PromptCompletion => &[&["prompt"], COMPLETION],
            Self::QuestionAnswer => &[&["question"], ANSWER],
            Self::Text => &[&["text"]],
        }
    }

    /// Detects the shape of a dataset from its first row.
    ///
    /// # Errors
    /// Rows that need a task or a prompt, with an example of it.
    pub fn detect(row: &Row) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|format| {
            format.fields().iter().all(|names| match format {
                // BoolQ's answer is a truth value.
                Self::QuestionAnswer => row.written(named(row, names)).is_ok(),
                _ => row.fields.contains_key(named(row, names)),
            })
        });
        let label = ["label", "labels"].into_iter().find(|label| row.fields.contains_key(*label));
        match (found, label) {
            (Some(Self::Text | Self::QuestionAnswer) | None, Some(label)) => Err(asks_for_prompt(row, label)),
            (Some(format), _) => Ok(format),
            (None, None) => Err(unknown(row)),
        }
    }

    /// Whether the rows are put into a chat template where the model has one. A prompt and a completion with white space
    /// between them are one text.
    pub fn is_chat(self, first: &Row) -> bool {
        let text = |field: &str| first.fields.get(field).and_then(Value::as_str).unwrap_or_default();
        let is_one_text = text("prompt").ends_with(char::is_whitespace)
            || text(named(first, COMPLETION)).starts_with(char::is_whitespace);
        !(self == Self::PromptCompletion && is_one_text)
    }

    /// The example of a row. `is_chat`: instructions and questions are put into the model's chat template.
    ///
    /// # Errors
    /// A field that is missing or of the wrong kind.
    pub fn example(self, row: &Row, is_chat: bool) -> Result<Example> {
        match self {
            Self::Messages => Conversation::of_row(row, "messages").map(Example::Chat),
            Self::Conversations => Conversation::of_row(row, named(row, CONVERSATIONS)).map(Example::Chat),
            Self::Alpaca => {
                let (instruction, input) = (row.text("instruction")?, optional(row, INPUT)?);
                let output = row.text(named(row, OUTPUT))?;
                if is_chat {
                    let user = if input.is_empty() {
                        instruction.to_owned()
                    } else {
                        format!("{instruction}\n\n{input}")
                    };
                    return Ok(exchange(optional(row, SYSTEM)?, &user, output));
                }
                Ok(Example::Completion {
                    prompt: alpaca_prompt(instruction, input),
                    completion: output.to_owned(),
                })
            }
            Self::PromptCompletion => {
                let completion = named(row, COMPLETION);
                if row.field("prompt")?.is_array() {
                    return Conversation::of_prompt(row, "prompt", completion).map(Example::Chat);
                }
                let (prompt, completion) = (row.text("prompt")?, row.text(completion)?);
                if is_chat {
                    return Ok(exchange(optional(row, SYSTEM)?, prompt, completion));
                }
                Ok(Example::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() })
            }
            Self::QuestionAnswer => {
                let (question, answer) = (row.text("question")?, row.written(named(row, ANSWER))?);
                if is_chat {
                    return Ok(exchange(optional(row, SYSTEM)?, question, &answer));
                }
                let prompt = format!("Question: {}\nAnswer:", question.trim());
                Ok(Example::Completion { prompt, completion: format!(" {}", answer.trim_start()) })
            }
            Self::Text => Ok(Example::Text(row.text("text")?.to_owned())),
        }
    }
}

/// A question of the user and the answer to learn.
fn exchange(system: &str, user: &str, answer: &str) -> Example {
    let system = (!system.is_empty()).then(|| Turn::new("system", system));
    let turns = system.into_iter().chain([Turn::new("user", user), Turn::new("assistant", answer)]);
    Example::Chat(Conversation { turns: turns.collect(), tools: None })
}

const CONVERSATIONS: &[&str] = &["conversations", "conversation"];
const INPUT: &[&str] = &["input", "context"];
const OUTPUT: &[&str] = &["output", "response"];
const COMPLETION: &[&str] = &["completion", "response"];
const ANSWER: &[&str] = &["answer", "response"];
const SYSTEM: &[&str] = &["system", "system_prompt"];

/// The name by which a row has a field; the first one if it has none.
fn named<'n>(row: &Row, names: &[&'n str]) -> &'n str {
    names.iter().find(|name| row.fields.contains_key(**name)).or(names.first()).copied().unwrap_or_default()
}

/// A text that may be missing or null.
fn optional<'r>(row: &'r Row, names: &[&str]) -> Result<&'r str> {
    let name = named(row, names);
    match row.fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(_) => row.text(name),
    }
}

/// The prompt of Stanford Alpaca (`train.py`, PROMPT_DICT).
fn alpaca_prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        return format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
         response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n\
         ### Response:\n"
    )
}

/// The error for rows with a label, which do not say what is asked of them.
fn asks_for_prompt(row: &Row, label: &str) -> Error {
    let names = row.fields.iter().filter(|(name, value)| *name != label && value.is_string());
    let longest = names.max_by_key(|(_, value)| value.as_str().map_or(0, str::len));
    let text = longest.map_or("text", |(name, _)| name.as_str());
    let what = match Builtin::for_row(row) {
        Some(task) => format!(
            "the rows look like those of the task {0}: give --task {0} (data.task = \"{0}\"), or a prompt of your own",
            task.name()
        ),
        None => format!(
            "the rows have a text and the field `{label}` ({} here), but no prompt says what is asked",
            row.fields.get(label).map_or_else(String::new, describe)
        ),
    };
    let label = if label == "label" { String::new() } else { format!(" --label {label}") };
    Error::invalid(
        format!("{}: {what}", row.place()),
        format!(
            "for example --prompt \"{{{text}}} It was\" --choice \" terrible\" --choice \" great\"{label}: the prompt with \
             the fields of a row, then the answer for each value of the label, from 0 on"
        ),
    )
}

/// The error for rows of no known shape.
fn unknown(row: &Row) -> Error {
    let names: Vec<&str> = row.fields.keys().map(String::as_str).collect();
    let what = format!("rows with the fields {} have no shape that qzo knows", names.join(", "));
    let help = match Builtin::for_row(row) {
        Some(task) => format!("they look like those of the task {0}: give --task {0} (data.task = \"{0}\")", task.name()),
        None => "known are: messages; conversations; instruction, input, output; prompt, completion; question, answer; \
                 text. For other fields give --prompt \"{field} …\" with --completion FIELD, or with --choice for each \
                 possible answer"
            .to_owned(),
    };
    Error::invalid(format!("{}: {what}", row.place()), help)
}
