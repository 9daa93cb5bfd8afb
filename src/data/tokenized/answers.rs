//! Answers after a prompt, as tokens.
//!
//! Prompt and option are tokenized together, with the tokenizer's own special tokens. The option is scored from the
//! first token that the prompt alone does not have. If the whole begins with the prompt's tokens, as it mostly does,
//! the scored ones are the last tokens(prompt + option) − tokens(prompt), which is MeZO's rule. That rule would leave
//! out a token that the end of the prompt shares with the option ("A: " and "yes" become "A:" and " yes").

use super::row_tokens::{Cut, RowTokens};
use crate::data::candidate::Candidate;
use crate::data::row::Row;
use crate::data::tasks::Example;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// The candidates of a prompt's options; `end` puts EOS after each.
///
/// # Errors
/// An option that adds no token or follows nothing.
pub fn tokenize(
    row: &Row,
    prompt: &str,
    options: &[String],
    gold: Vec<usize>,
    end: bool,
    tokenizer: &Tokenizer,
) -> Result<RowTokens> {
    let prompt_ids = tokenizer.encode(prompt, true)?;
    let found = options.iter().map(|option| candidate(row, prompt, &prompt_ids, option, end, tokenizer));
    let found = found.collect::<Result<Vec<_>>>()?;
    let is_merged = found.iter().any(|(_, merged)| *merged);
    let candidates = found.into_iter().map(|(candidate, _)| candidate).collect();
    Ok(RowTokens { sequences: vec![(candidates, gold)], cut: Cut::Prompt, is_merged, is_reopened: false })
}

/// The candidate of an option, and whether its first scored token also holds the end of the prompt. `end` puts EOS
/// after the option.
fn candidate(
    row: &Row,
    prompt: &str,
    prompt_ids: &[u32],
    option: &str,
    end: bool,
    tokenizer: &Tokenizer,
) -> Result<(Candidate, bool)> {
    let mut tokens = tokenizer.encode(&format!("{prompt}{option}"), true)?;
    let eos = tokenizer.eos_id();
    let ends = |ids: &[u32]| eos.is_some() && ids.last().copied() == eos;
    // A tokenizer that ends every text with EOS ends the prompt alone with it, too.
    let prompt_len = prompt_ids.len() - usize::from(ends(prompt_ids) && ends(&tokens));
    if end && !ends(&tokens) {
        tokens.push(eos.ok_or_else(|| {
            Error::unsupported(
                "the tokenizer has no EOS token to end a completion with",
                "set eos_token in its files",
            )
        })?);
    }
    let shared =
        prompt_ids[..prompt_len].iter().zip(&tokens).take_while(|(prompt, whole)| prompt == whole).count();
    let added = tokens.len() - usize::from(end) - shared;
    if shared == tokens.len() || end && !option.is_empty() && added == 0 {
        let found = format!("\"{option}\" adds no token to its prompt");
        return Err(row.error(match prompt.ends_with(char::is_whitespace) {
            true => format!("{found}: move the space at the prompt's end to the start of the answer"),
            false => found,
        }));
    }
    if shared == 0 && prompt_len == 0 {
        return Err(row.error("the prompt is empty, and this tokenizer puts no BOS token before a text"));
    }
    if shared == 0 {
        let end = if prompt.ends_with(char::is_whitespace) { "the space at its end" } else { "its end" };
        return Err(row.error(format!(
            "the prompt has no token of its own before \"{option}\": move {end} to the start of the answer, or write \
             more before it"
        )));
    }
    let characters = option.trim_start().chars().count();
    Ok((Candidate { characters, ..Candidate::after_prompt(shared, tokens) }, shared < prompt_len))
}

/// Warns if an answer follows the last word of its prompt without a space.
pub fn warn_of_glued(row: &Row, example: &Example) {
    let (prompt, answer) = match example {
        Example::Classification { prompt, options, .. } => (prompt, options.first()),
        Example::Completion { prompt, completion } => (prompt, Some(completion)),
        Example::Generation { .. } | Example::Chat(_) | Example::Text(_) => return,
    };
    let word = |letter: Option<char>| letter.is_some_and(|c| c.is_ascii_alphanumeric());
    let last = prompt.chars().next_back();
    if (word(last) || last == Some(':')) && answer.is_some_and(|answer| word(answer.chars().next())) {
        let end: String = prompt.chars().skip(prompt.chars().count().saturating_sub(20)).collect();
        let answer: String = answer.map_or("", String::as_str).chars().take(20).collect();
        tracing::warn!(
            "{}: \"{end}\" and \"{answer}\" become \"{end}{answer}\": an answer is put directly after its prompt, so \
             write the space at its start",
            row.place()
        );
    }
}
