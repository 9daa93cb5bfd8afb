//! The sequences of one row, and how they are cut to a length.

use crate::data::candidate::{Candidate, TokenizedExample};

/// The tokens of a row, before its length is checked.
pub struct RowTokens {
    /// Candidates and the right ones of them. A row with nothing to learn has none; a chat whose turns cannot be learned in
    /// one sequence has several.
    pub sequences: Vec<(Vec<Candidate>, Vec<usize>)>,
    pub cut: Cut,
    /// Whether an answer begins within a token of its prompt.
    pub is_merged: bool,
    /// Whether the chat template writes an answer otherwise than right after the prompt that opens it.
    pub is_reopened: bool,
}

impl RowTokens {
    /// A text of which `scored` ranges are learned; nothing, if there are none.
    pub fn of_texts(candidates: impl IntoIterator<Item = Candidate>) -> Self {
        let learned = candidates.into_iter().filter(|candidate| !candidate.scored.is_empty());
        let sequences = learned.map(|candidate| (vec![candidate], vec![0])).collect();
        Self { sequences, cut: Cut::End, is_merged: false, is_reopened: false }
    }
}

/// The part of a sequence that is cut off if it is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Tokens from the left of the prompt; a BOS at its start and the scored tokens stay.
    Prompt,
    /// The end, whether it is scored or not.
    End,
}

impl TokenizedExample {
    /// Cuts each candidate to `limit` tokens. Gives false if nothing to learn would be left; the example is then of no use.
    pub(super) fn truncate(&mut self, limit: usize, cut: Cut, bos: Option<u32>) -> bool {
        match cut {
            Cut::Prompt => self.cut_prompts(limit, bos),
            Cut::End => {
                self.candidates.iter_mut().for_each(|candidate| cut_end(candidate, limit));
                self.candidates.iter().all(|candidate| !candidate.scored.is_empty())
            }
        }
    }

    /// Changes nothing if the scored tokens do not fit together with one token before them.
    fn cut_prompts(&mut self, limit: usize, bos: Option<u32>) -> bool {
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
}

fn cut_end(candidate: &mut Candidate, limit: usize) {
    candidate.tokens.truncate(limit);
    candidate.scored.retain(|span| span.start < limit);
    if let Some(last) = candidate.scored.last_mut() {
        last.end = last.end.min(limit);
    }
}
