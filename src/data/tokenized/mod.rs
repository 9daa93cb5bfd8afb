//! Rows as token ids, within the limits of a run and its model.
//!
//! Prompt and option are tokenized together, with the tokenizer's own special tokens. The option is scored from the
//! first token that the prompt alone does not have. If the whole begins with the prompt's tokens, as it mostly does,
//! the scored ones are the last tokens(prompt + option) − tokens(prompt), which is MeZO's rule. That rule would leave
//! out a token that the end of the prompt shares with the option ("A: " and "yes" become "A:" and " yes").

use super::batch::{Batch, Load};
use super::candidate::{Candidate, TokenizedExample};
use super::limits::{LengthReport, Limits, Overlong};
use super::loss::LossKind;
use super::row::Row;
use super::tasks::{Example, Task};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

#[derive(Debug, Clone)]
pub struct TokenizedDataset {
    pub loss_kind: LossKind,
    /// The examples in the order of their rows; rows that are left out have none.
    pub examples: Vec<TokenizedExample>,
    pub lengths: LengthReport,
}

impl TokenizedDataset {
    /// The size of a batch of each example alone. The size of a batch of several examples is the sum of theirs.
    pub fn loads(&self) -> Vec<Load> {
        self.examples.iter().map(|example| Batch::new(self.loss_kind, [example]).load()).collect()
    }

    /// Tokenizes every row.
    ///
    /// # Errors
    /// A row that the task cannot read, a row beyond the model's context or vocabulary, an option that
    /// adds no token or follows nothing, and nothing left within `max_seq_length`.
    pub fn new(rows: &[Row], task: &Task, tokenizer: &Tokenizer, limits: Limits) -> Result<Self> {
        let mut lengths = LengthReport { rows: rows.len(), shortest: usize::MAX, ..Default::default() };
        let mut examples = Vec::with_capacity(rows.len());
        let mut first_merged = None;
        for (i, row) in rows.iter().enumerate() {
            let example = task.example(row)?;
            if i == 0 {
                warn_of_glued(row, &example);
            }
            let (mut example, merged) = tokenize(row, &example, tokenizer)?;
            let length = example.candidates.iter().map(|c| c.tokens.len()).max().unwrap_or(0);
            lengths.longest = lengths.longest.max(length);
            lengths.shortest = lengths.shortest.min(length);
            if length > limits.length() {
                match limits.overlong {
                    None => return Err(too_long(row, length, limits)),
                    Some(Overlong::Truncate) if example.truncate(limits.length(), tokenizer.bos_id()) => {
                        lengths.truncated += 1;
                    }
                    Some(_) => {
                        lengths.dropped += 1;
                        continue;
                    }
                }
            }
            example.check_vocabulary(row, limits)?;
            if merged {
                lengths.merged += 1;
                first_merged.get_or_insert(row);
            }
            examples.push(example);
        }
        if let Some(row) = first_merged {
            warn_of_merged(row, lengths);
        }
        if examples.is_empty() {
            return Err(nothing_left(rows, limits, lengths));
        }
        Ok(Self { loss_kind: task.loss_kind(), examples, lengths })
    }
}

impl TokenizedExample {
    /// Cuts each overlong prompt from its left and keeps a BOS at its start. Gives false and changes nothing if the
    /// scored tokens do not fit together with one token before them.
    fn truncate(&mut self, limit: usize, bos: Option<u32>) -> bool {
        let kept = |c: &Candidate| usize::from(c.tokens.first().copied() == bos && bos.is_some());
        let least = |c: &Candidate| c.tokens.len() - c.prompt().len() + kept(c).max(1);
        if self.candidates.iter().any(|c| least(c) > limit) {
            return false;
        }
        for candidate in &mut self.candidates {
            let start = kept(candidate);
            let excess = candidate.tokens.len().saturating_sub(limit);
            candidate.tokens.drain(start..start + excess);
            for span in &mut candidate.scored {
                *span = span.start - excess..span.end - excess;
            }
        }
        true
    }

    fn check_vocabulary(&self, row: &Row, limits: Limits) -> Result<()> {
        let mut tokens = self.candidates.iter().flat_map(|candidate| &candidate.tokens);
        match tokens.find(|&&token| token as usize >= limits.vocab_size) {
            Some(token) => Err(row.error(format!(
                "token {token} is outside the model's vocabulary of {}: tokenizer and model do not belong together",
                limits.vocab_size
            ))),
            None => Ok(()),
        }
    }
}

fn too_long(row: &Row, length: usize, limits: Limits) -> Error {
    row.error(format!(
        "{} tokens to read, but the model's context holds {}; shorten the row, or choose how such rows are treated: \
         overlong = \"drop\" or \"truncate\" in the [data] table of a recipe, --overlong for `qzo eval`",
        length - 1,
        limits.max_position
    ))
}

/// Warns if an answer follows the last word of its prompt without a space.
fn warn_of_glued(row: &Row, example: &Example) {
    let (prompt, answer) = match example {
        Example::Classification { prompt, options, .. } => (prompt, options.first()),
        Example::Completion { prompt, completion } => (prompt, Some(completion)),
        Example::Generation { .. } => return,
    };
    let word = |letter: Option<char>| letter.is_some_and(|c| c.is_ascii_alphanumeric());
    let last = prompt.chars().next_back();
    if (word(last) || last == Some(':')) && answer.is_some_and(|answer| word(answer.chars().next())) {
        let end: String = prompt.chars().skip(prompt.chars().count().saturating_sub(20)).collect();
        let answer: String = answer.map_or("", String::as_str).chars().take(20).collect();
        tracing::warn!(
            "{}:{}: \"{end}\" and \"{answer}\" become \"{end}{answer}\": an answer is put directly after its prompt, so \
             write the space at its start",
            row.path().display(),
            row.line
        );
    }
}

fn warn_of_merged(first: &Row, lengths: LengthReport) {
    tracing::warn!(
        "{}:{}: the prompt's end and the answer's start are one token, which is scored as part of the answer ({} of {} rows); \
         the prompt alone has other tokens: move the space at the prompt's end to the start of the answer",
        first.path().display(),
        first.line,
        lengths.merged,
        lengths.rows,
    );
}

/// The tokens of an example, and whether one of its candidates begins within a token of the prompt.
fn tokenize(row: &Row, example: &Example, tokenizer: &Tokenizer) -> Result<(TokenizedExample, bool)> {
    let of = |prompt: &str, options: &[String], end: bool| {
        let prompt_ids = tokenizer.encode(prompt, true)?;
        let candidates =
            options.iter().map(|option| candidate(row, prompt, &prompt_ids, option, end, tokenizer));
        candidates.collect::<Result<Vec<_>>>()
    };
    let (found, gold) = match example {
        Example::Classification { prompt, options, gold } => (of(prompt, options, false)?, gold.clone()),
        Example::Completion { prompt, completion } => {
            (of(prompt, std::slice::from_ref(completion), true)?, vec![0])
        }
        // Teacher forcing: the first gold answer, and the line end that stops a generation.
        Example::Generation { prompt, answers } => {
            let answer = format!(" {}\n", answers.first().map_or("", String::as_str));
            (of(prompt, &[answer], false)?, vec![0])
        }
    };
    let merged = found.iter().any(|(_, merged)| *merged);
    let candidates = found.into_iter().map(|(candidate, _)| candidate).collect();
    Ok((TokenizedExample { line: row.line, candidates, gold }, merged))
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
        let eos = eos.ok_or_else(|| {
            Error::unsupported(
                "the tokenizer has no EOS token to end a completion with",
                "set eos_token in its files",
            )
        })?;
        tokens.push(eos);
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

fn nothing_left(rows: &[Row], limits: Limits, lengths: LengthReport) -> Error {
    let Some(first) = rows.first() else {
        return Error::invalid("no rows", "a dataset is a JSONL file: one JSON object a line");
    };
    Error::invalid(
        format!(
            "{}: all {} rows are longer than {} tokens, {}; the shortest has {}",
            first.path().display(),
            lengths.rows,
            limits.length(),
            match limits.max_seq_length {
                Some(limit) if limit == limits.length() => "which max_seq_length allows",
                _ => "which the model's context holds",
            },
            lengths.shortest
        ),
        "raise max_seq_length as far as the model's context goes, or set overlong to \"truncate\"",
    )
}

#[cfg(test)]
mod tests;
