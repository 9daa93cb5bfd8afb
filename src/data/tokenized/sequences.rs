//! The tokens of one row, by the kind of its example.

use super::row_tokens::RowTokens;
use super::{answers, chats};
use crate::data::candidate::Candidate;
use crate::data::row::Row;
use crate::data::tasks::Example;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;

/// Tokenizes an example.
///
/// # Errors
/// An example that the tokenizer or its chat template cannot take.
pub fn tokenize(row: &Row, example: &Example, tokenizer: &Tokenizer) -> Result<RowTokens> {
    let one = std::slice::from_ref::<String>;
    match example {
        Example::Classification { prompt, options, gold } => {
            answers::tokenize(row, prompt, options, gold.clone(), false, tokenizer)
        }
        Example::Completion { prompt, completion } => {
            answers::tokenize(row, prompt, one(completion), vec![0], true, tokenizer)
        }
        // Teacher forcing: the first gold answer, and the line end that stops a generation.
        Example::Generation { prompt, answers } => {
            let answer = format!(" {}\n", answers.first().map_or("", String::as_str));
            answers::tokenize(row, prompt, one(&answer), vec![0], false, tokenizer)
        }
        Example::Chat(conversation) => chats::tokenize(row, conversation, tokenizer),
        Example::Text(text) => whole_text(text, tokenizer),
    }
}

/// A text between the tokenizer's special tokens, with EOS at its end. Every token but the first is scored.
fn whole_text(text: &str, tokenizer: &Tokenizer) -> Result<RowTokens> {
    if text.trim().is_empty() {
        return Ok(RowTokens::of_texts([]));
    }
    let mut tokens = tokenizer.encode(text, true)?;
    tokens.extend(tokenizer.eos_id().filter(|eos| tokens.last() != Some(eos)));
    let [before, _] = tokenizer.around()?;
    let first = before.len().max(1);
    Ok(RowTokens::of_texts((first < tokens.len()).then(|| Candidate::after_prompt(first, tokens))))
}
