//! Dev rows with the model's answers, as texts: `examples.jsonl` of a run.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::{TokenizedExample, Tokenizer};
use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, generate_batch};
use crate::model::LanguageModel;

/// Longest answer, in tokens.
pub const MAX_NEW_TOKENS: usize = 64;

/// Longest text of an example, in characters.
const MOST_CHARS: usize = 800;

/// A line of `examples.jsonl`: a dev row and the model's answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnsweredRow {
    pub prompt: String,
    /// The right answers.
    pub gold: Vec<String>,
    /// Answer of the base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Answer of `final/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Reads `examples.jsonl`; none if there is no such file.
///
/// # Errors
/// The file cannot be read.
pub fn read_examples(path: &Path) -> Result<Vec<AnsweredRow>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(Error::io(path, "reading"))?,
    };
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let parse = |(number, line)| {
        serde_json::from_slice(line).map_err(|error| Error::line(path, number + 1, error.to_string()))
    };
    lines.map(parse).collect()
}

/// The prompt of a row, as the model reads it, and its right answers.
pub fn unanswered(row: &TokenizedExample, tokenizer: &Tokenizer) -> Result<AnsweredRow> {
    let text = match row.prompt() {
        [first, rest @ ..] if Some(*first) == tokenizer.bos_id() => rest,
        all => all,
    };
    let gold: Result<Vec<_>> = row.gold.iter().map(|index| answer(row, *index, tokenizer)).collect();
    Ok(AnsweredRow { prompt: cut(&tokenizer.decode(text, false)?), gold: gold?, ..Default::default() })
}

/// The text of a row's candidate `index`.
pub fn answer(row: &TokenizedExample, index: usize, tokenizer: &Tokenizer) -> Result<String> {
    let candidate = row.candidates.get(index);
    let tokens = candidate.and_then(|candidate| candidate.tokens.get(candidate.scored.first()?.clone()));
    Ok(cut(tokenizer.decode(tokens.unwrap_or_default(), true)?.trim()))
}

/// The model's own answers to rows: the most likely tokens. `progress` is given the number of answers, and of rows.
pub fn generated(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    rows: &[&TokenizedExample],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<String>> {
    let prompts: Vec<&[u32]> = rows.iter().map(|row| row.prompt()).collect();
    let options = GenerateOptions { max_new_tokens: MAX_NEW_TOKENS, ..Default::default() };
    let generated =
        generate_batch(model, tokenizer, &prompts, &options, &mut |done| progress(done, rows.len()))?;
    Ok(generated.iter().map(|answer| cut(answer.text.trim())).collect())
}

/// Cuts the middle out of a long text. A question often stands at its end.
fn cut(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= MOST_CHARS {
        return text.to_string();
    }
    let (start, end) = (MOST_CHARS / 3, MOST_CHARS - MOST_CHARS / 3);
    let first: String = text.chars().take(start).collect();
    let rest: String = text.chars().skip(chars - end).collect();
    format!("{first} […] {rest}")
}
