//! Rows as token ids, within the limits of a run and its model.
//!
//! ```text
//! sequences   the tokens of one row, by the kind of its example
//! row_tokens  what those are, and how they are cut
//! answers     options and completions after a prompt
//! chats       conversations, by the assistant's turns
//! turns       which parts of a rendered conversation those are
//! ```

mod answers;
mod chats;
mod row_tokens;
mod sequences;
#[cfg(test)]
mod tests;
mod turns;

use rayon::prelude::*;

use self::answers::warn_of_glued;
use self::row_tokens::RowTokens;
use self::sequences::tokenize;
use super::batch::{Batch, Load};
use super::candidate::TokenizedExample;
use super::limits::{LengthReport, Limits, Overlong};
use super::loss::LossKind;
use super::row::Row;
use super::source::FORMATS;
use super::tasks::Task;
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
        Self::after_shots(rows, task, "", tokenizer, limits, &mut |_| ())
    }

    /// Like [`Self::new`], with solved examples before every prompt; `progress` is given the number of rows done.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn after_shots(
        rows: &[Row],
        task: &Task,
        shots: &str,
        tokenizer: &Tokenizer,
        limits: Limits,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        if let Some(row) = rows.first() {
            warn_of_glued(row, &task.example(row)?);
        }
        let mut data = Self {
            loss_kind: task.loss_kind(),
            examples: Vec::with_capacity(rows.len()),
            lengths: LengthReport { rows: rows.len(), shortest: usize::MAX, ..Default::default() },
        };
        let mut first_merged = None;
        // In parts, so that an error in a long file is found before all of it is tokenized.
        for (part, first) in rows.chunks(ROWS_AT_ONCE).zip((0..).step_by(ROWS_AT_ONCE)) {
            let tokenized =
                part.par_iter().map(|row| tokenize(row, &task.example(row)?.after(shots), tokenizer));
            let tokenized: Vec<Result<RowTokens>> = tokenized.collect();
            for ((index, row), tokens) in (first..).zip(part).zip(tokenized) {
                let tokens = tokens?;
                if tokens.is_merged {
                    first_merged.get_or_insert(row);
                }
                data.add(row, index, tokens, tokenizer, limits)?;
            }
            progress(first + part.len());
        }
        if let Some(row) = first_merged {
            warn_of_merged(row, data.lengths);
        }
        if data.examples.is_empty() {
            return Err(nothing_left(rows, limits, data.lengths));
        }
        Ok(data)
    }

    /// Adds the sequences of a row, as far as the limits allow them.
    fn add(
        &mut self,
        row: &Row,
        index: usize,
        tokens: RowTokens,
        tokenizer: &Tokenizer,
        limits: Limits,
    ) -> Result<()> {
        let RowTokens { sequences, cut, is_merged, is_reopened } = tokens;
        let (lengths, before) = (&mut self.lengths, self.examples.len());
        match sequences.len() {
            0 => lengths.unlearned += 1,
            1 => {}
            _ => lengths.split += 1,
        }
        let (mut dropped, mut truncated) = (false, false);
        for (candidates, gold) in sequences {
            let mut example = TokenizedExample { row: index, candidates, gold };
            let length = example.candidates.iter().map(|c| c.tokens.len()).max().unwrap_or(0);
            lengths.longest = lengths.longest.max(length);
            lengths.shortest = lengths.shortest.min(length);
            if length > limits.length() {
                match limits.overlong {
                    None => return Err(too_long(row, length, limits)),
                    Some(Overlong::Truncate)
                        if example.truncate(limits.length(), cut, tokenizer.bos_id()) =>
                    {
                        truncated = true;
                    }
                    Some(_) => {
                        dropped = true;
                        continue;
                    }
                }
            }
            example.check_vocabulary(row, limits)?;
            self.examples.push(example);
        }
        let is_kept = self.examples.len() > before;
        lengths.dropped += usize::from(dropped && !is_kept);
        // A row of which a part is left out is cut, too.
        lengths.truncated += usize::from(is_kept && (truncated || dropped));
        lengths.merged += usize::from(is_kept && is_merged);
        lengths.reopened += usize::from(is_kept && is_reopened);
        Ok(())
    }
}

/// Rows that are tokenized together.
const ROWS_AT_ONCE: usize = 4096;

impl TokenizedExample {
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

fn warn_of_merged(first: &Row, lengths: LengthReport) {
    tracing::warn!(
        "{}: the prompt's end and the answer's start are one token, which is scored as part of the answer ({} of {} rows); \
         the prompt alone has other tokens: move the space at the prompt's end to the start of the answer",
        first.place(),
        lengths.merged,
        lengths.rows,
    );
}

fn nothing_left(rows: &[Row], limits: Limits, lengths: LengthReport) -> Error {
    let Some(first) = rows.first() else {
        return Error::invalid("no rows", FORMATS);
    };
    if lengths.unlearned == lengths.rows {
        return Error::invalid(
            format!(
                "{}: no row has anything to learn, such as a turn of the assistant",
                first.path().display()
            ),
            "check the fields of the rows",
        );
    }
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
