//! A row of a dataset as token ids, and which of its tokens are scored.

use std::ops::Range;

use super::tokenizer::Tokenizer;
use crate::error::Result;

/// A prompt with one possible answer, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub tokens: Vec<u32>,
    /// Ranges of `tokens` whose probability counts: one for an answer, one per assistant turn of a chat. At least
    /// one, in order, none empty, and the first token is in none of them, because no token comes before it.
    pub scored: Vec<Range<usize>>,
    /// Characters of the answer, without the space before it; 0 where nothing asks for them.
    pub characters: usize,
}

impl Candidate {
    /// Scores every token after the first `prompt` ones. `prompt` is at least 1 and less than `tokens.len()`.
    pub fn after_prompt(prompt: usize, tokens: Vec<u32>) -> Self {
        let scored = std::iter::once(prompt..tokens.len()).collect();
        Self { tokens, scored, characters: 0 }
    }

    /// Tokens before the first scored one.
    pub fn prompt(&self) -> &[u32] {
        let end = self.scored.first().map_or(self.tokens.len(), |span| span.start);
        &self.tokens[..end]
    }

    /// The text in pieces, each with whether it is scored.
    ///
    /// # Errors
    /// A token that the tokenizer does not know.
    pub fn pieces(&self, tokenizer: &Tokenizer) -> Result<Vec<(String, bool)>> {
        let mut pieces = Vec::new();
        let mut from = 0;
        let spans = self.scored.iter().map(|span| (span.clone(), true));
        for (span, is_scored) in spans.chain([(self.tokens.len()..self.tokens.len(), false)]) {
            for (range, is_scored) in [(from..span.start, false), (span.clone(), is_scored)] {
                if !range.is_empty() {
                    pieces.push((tokenizer.decode(&self.tokens[range], false)?, is_scored));
                }
            }
            from = span.end;
        }
        Ok(pieces)
    }

    /// Number of tokens that a model reads: all before the last scored one, which is only predicted.
    pub fn read(&self) -> usize {
        self.scored.last().map_or(0, |span| span.end - 1)
    }
}

/// One row. A completion is a single candidate, which is its own gold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedExample {
    /// Index of the row in its dataset.
    pub row: usize,
    pub candidates: Vec<Candidate>,
    /// Indices into `candidates`; training aims at the first.
    pub gold: Vec<usize>,
}

impl TokenizedExample {
    /// Tokens before the first scored one of its first candidate.
    pub fn prompt(&self) -> &[u32] {
        self.candidates.first().map_or(&[], Candidate::prompt)
    }

    /// Number of rows that the example takes in a batch.
    pub fn rows(&self) -> usize {
        let shared = self.shared();
        shared + self.candidates.iter().map(|c| c.read() - shared).sum::<usize>()
    }

    /// Number of tokens that all candidates begin with, counting only tokens that are read.
    pub fn shared(&self) -> usize {
        let Some((first, others)) = self.candidates.split_first() else { return 0 };
        others.iter().fold(first.read(), |shared, other| {
            let same = first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
            shared.min(same).min(other.read())
        })
    }
}
