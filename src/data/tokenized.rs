//! Rows as token ids, within the limits that a run and its model set.
//!
//! MeZO's rule: the whole text, prompt and option together, is tokenized with the tokenizer's own
//! special tokens; the option is its last tokens(prompt + option) − tokens(prompt) tokens.

use super::batch::{Batch, Load, Objective};
use super::config::Overlong;
use super::dataset::Row;
use super::tasks::{Example, Task};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A text whose last `scored` tokens are the ones whose probability counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub tokens: Vec<u32>,
    /// From 1 to `tokens.len() - 1`.
    pub scored: usize,
}

impl Candidate {
    /// Tokens that a model has to read: the last one is only predicted.
    pub fn read(&self) -> usize {
        self.tokens.len() - 1
    }
}

/// One row. A completion is a single candidate, its own gold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedExample {
    /// Line of the dataset.
    pub line: usize,
    pub candidates: Vec<Candidate>,
    /// Indices into `candidates`; the first is the one that training aims at.
    pub gold: Vec<usize>,
}

#[derive(Debug, Clone)]
pub struct TokenizedDataset {
    pub objective: Objective,
    /// In the order of the rows, without those left out.
    pub examples: Vec<TokenizedExample>,
    pub lengths: LengthReport,
}

/// What the limits did to a dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LengthReport {
    pub rows: usize,
    pub dropped: usize,
    pub truncated: usize,
    /// Tokens of the longest and the shortest row as read, each with its longest candidate.
    pub longest: usize,
    pub shortest: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tokens of prompt and candidate together.
    pub max_seq_length: Option<usize>,
    pub overlong: Overlong,
    /// The model's context, in tokens.
    pub max_position: usize,
    /// Rows of the model's embedding.
    pub vocab_size: usize,
}

impl TokenizedDataset {
    /// What each example adds to a batch.
    pub fn loads(&self) -> Vec<Load> {
        self.examples.iter().map(|example| Batch::new(self.objective, [example]).load()).collect()
    }

    /// Tokenizes every row.
    ///
    /// # Errors
    /// A row that the task cannot read, a row beyond the model's context or vocabulary, an option that
    /// adds no token or follows nothing, and nothing left within `max_seq_length`.
    pub fn new(rows: &[Row], task: &Task, tokenizer: &Tokenizer, limits: Limits) -> Result<Self> {
        let mut lengths = LengthReport { rows: rows.len(), shortest: usize::MAX, ..Default::default() };
        let mut examples = Vec::with_capacity(rows.len());
        for row in rows {
            let mut example = tokenize(row, &task.example(row)?, tokenizer)?;
            let length = example.candidates.iter().map(|c| c.tokens.len()).max().unwrap_or(0);
            lengths.longest = lengths.longest.max(length);
            lengths.shortest = lengths.shortest.min(length);
            match limits.max_seq_length.filter(|&limit| length > limit) {
                None => {}
                Some(limit)
                    if limits.overlong == Overlong::Truncate
                        && example.truncate(limit, tokenizer.bos_id()) =>
                {
                    lengths.truncated += 1;
                }
                Some(_) => {
                    lengths.dropped += 1;
                    continue;
                }
            }
            example.check(row, limits)?;
            examples.push(example);
        }
        if examples.is_empty() {
            return Err(nothing_left(rows, limits, lengths));
        }
        Ok(Self { objective: task.objective(), examples, lengths })
    }
}

impl TokenizedExample {
    /// Cuts each overlong prompt from its left, keeping a BOS at its start. False where the scored
    /// tokens, with one token before them, do not fit; then nothing is changed.
    fn truncate(&mut self, limit: usize, bos: Option<u32>) -> bool {
        let kept = |c: &Candidate| usize::from(c.tokens.first().copied() == bos && bos.is_some());
        if self.candidates.iter().any(|c| c.scored + kept(c).max(1) > limit) {
            return false;
        }
        for candidate in &mut self.candidates {
            let start = kept(candidate);
            let excess = candidate.tokens.len().saturating_sub(limit);
            candidate.tokens.drain(start..start + excess);
        }
        true
    }

    fn check(&self, row: &Row, limits: Limits) -> Result<()> {
        for candidate in &self.candidates {
            // The last token is only predicted, never read.
            let read = candidate.tokens.len() - 1;
            if read > limits.max_position {
                return Err(row.error(format!(
                    "{read} tokens, but the model's context holds {}; set max_seq_length to drop or truncate long rows",
                    limits.max_position
                )));
            }
            if let Some(token) = candidate.tokens.iter().find(|&&token| token as usize >= limits.vocab_size) {
                return Err(row.error(format!(
                    "token {token} is outside the model's vocabulary of {}: tokenizer and model do not belong together",
                    limits.vocab_size
                )));
            }
        }
        Ok(())
    }
}

fn tokenize(row: &Row, example: &Example, tokenizer: &Tokenizer) -> Result<TokenizedExample> {
    let (candidates, gold) = match example {
        Example::Classification { prompt, options, gold } => {
            let prompt_ids = tokenizer.encode(prompt, true)?;
            let candidates =
                options.iter().map(|option| candidate(row, prompt, &prompt_ids, option, false, tokenizer));
            (candidates.collect::<Result<Vec<_>>>()?, gold.clone())
        }
        Example::Completion { prompt, completion } => {
            let prompt_ids = tokenizer.encode(prompt, true)?;
            (vec![candidate(row, prompt, &prompt_ids, completion, true, tokenizer)?], vec![0])
        }
        // Teacher forcing: the first gold answer, and the line end that stops a generation.
        Example::Generation { prompt, answers } => {
            let prompt_ids = tokenizer.encode(prompt, true)?;
            let answer = format!(" {}\n", answers.first().map_or("", String::as_str));
            (vec![candidate(row, prompt, &prompt_ids, &answer, false, tokenizer)?], vec![0])
        }
    };
    Ok(TokenizedExample { line: row.line, candidates, gold })
}

fn candidate(
    row: &Row,
    prompt: &str,
    prompt_ids: &[u32],
    option: &str,
    end: bool,
    tokenizer: &Tokenizer,
) -> Result<Candidate> {
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
    let scored = tokens.len().saturating_sub(prompt_len);
    if scored == 0 {
        return Err(row.error(format!("\"{option}\" adds no token to its prompt")));
    }
    if scored >= tokens.len() {
        return Err(row.error("the prompt is empty, and this tokenizer puts no BOS token before a text"));
    }
    Ok(Candidate { tokens, scored })
}

fn nothing_left(rows: &[Row], limits: Limits, lengths: LengthReport) -> Error {
    let Some(first) = rows.first() else {
        return Error::invalid("no rows", "a dataset is a JSONL file: one JSON object a line");
    };
    Error::invalid(
        format!(
            "{}: all {} rows are longer than max_seq_length = {} tokens; the shortest has {}",
            first.path().display(),
            lengths.rows,
            limits.max_seq_length.unwrap_or_default(),
            lengths.shortest
        ),
        "raise max_seq_length, or set overlong = \"truncate\"",
    )
}

#[cfg(test)]
#[path = "tokenized_tests.rs"]
mod tests;
