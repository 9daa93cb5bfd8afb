//! A batch as a model reads it: sequences end to end without padding, and the places where the probability of one
//! token is asked for.

use std::ops::Range;

use super::candidate::TokenizedExample;
use super::loss::{LossKind, LossSum, ScoredExample, Scoring};

/// Asks for log p(`token` | the sequence up to and including `row`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Index into `Batch::tokens`.
    pub row: u32,
    pub token: u32,
}

/// Consecutive rows of a batch that belong to one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub rows: Range<usize>,
    /// Earlier rows with which the text begins. Several sequences may share them, so that they are read once.
    pub prefix: Range<usize>,
}

impl Sequence {
    /// A sequence without a prefix: it attends to itself, from position 0.
    pub fn alone(rows: Range<usize>) -> Self {
        Self { rows, prefix: 0..0 }
    }
}

/// Size of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Load {
    /// Rows.
    pub tokens: usize,
    /// Rows whose logits are needed.
    pub scored: usize,
}

impl Load {
    /// The larger of each number.
    pub fn max(self, other: Self) -> Self {
        Self { tokens: self.tokens.max(other.tokens), scored: self.scored.max(other.scored) }
    }
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self::default(), |a, b| Self { tokens: a.tokens + b.tokens, scored: a.scored + b.scored })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Every sequence's tokens, one after the other.
    pub tokens: Vec<u32>,
    /// Consecutive, covering `tokens`.
    pub sequences: Vec<Sequence>,
    pub targets: Vec<Target>,
    pub scoring: Scoring,
}

impl Batch {
    /// Puts examples end to end. The tokens that all candidates of an example begin with are read once, and the rest
    /// of each candidate continues them.
    pub fn new<'e>(loss_kind: LossKind, examples: impl IntoIterator<Item = &'e TokenizedExample>) -> Self {
        let scoring = Scoring { loss_kind, examples: Vec::new() };
        let mut batch = Self { tokens: Vec::new(), sequences: Vec::new(), targets: Vec::new(), scoring };
        for example in examples {
            batch.push_example(example);
        }
        batch
    }

    pub fn load(&self) -> Load {
        let mut rows: Vec<u32> = self.targets.iter().map(|target| target.row).collect();
        rows.sort_unstable();
        rows.dedup();
        Load { tokens: self.tokens.len(), scored: rows.len() }
    }

    /// The loss of each pass over the batch. `logprobs` holds the answers to all targets once per pass, end to end.
    pub fn losses(&self, logprobs: &[f32]) -> Vec<LossSum> {
        let passes = logprobs.chunks(self.targets.len().max(1));
        passes.map(|answers| self.scoring.loss(answers)).collect()
    }

    fn push_example(&mut self, example: &TokenizedExample) {
        let shared = example.shared();
        let prefix = match example.candidates.first() {
            Some(candidate) if shared > 0 => self.push_sequence(&candidate.tokens[..shared], 0..0),
            _ => 0..0,
        };
        let candidates = example.candidates.iter().map(|candidate| {
            let rest = &candidate.tokens[shared..candidate.read()];
            let rest = if rest.is_empty() { 0..0 } else { self.push_sequence(rest, prefix.clone()) };
            let row = |at: usize| if at < shared { prefix.start + at } else { rest.start + at - shared };
            let start = self.targets.len();
            let scored = candidate.scored.iter().cloned().flatten();
            self.targets
                .extend(scored.map(|at| Target { row: row(at - 1) as u32, token: candidate.tokens[at] }));
            start..self.targets.len()
        });
        let candidates = candidates.collect();
        self.scoring.examples.push(ScoredExample { candidates, gold: example.gold.clone() });
    }

    fn push_sequence(&mut self, tokens: &[u32], prefix: Range<usize>) -> Range<usize> {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let rows = start..self.tokens.len();
        self.sequences.push(Sequence { rows: rows.clone(), prefix });
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Candidate;

    /// Candidates as their tokens and the number of tokens of their prompt.
    fn example(candidates: &[(&[u32], usize)]) -> TokenizedExample {
        let candidates = candidates.iter().map(|(t, prompt)| Candidate::after_prompt(*prompt, t.to_vec()));
        TokenizedExample { row: 0, candidates: candidates.collect(), gold: vec![0] }
    }

    fn targets(batch: &Batch) -> Vec<(u32, u32)> {
        batch.targets.iter().map(|t| (t.row, t.token)).collect()
    }

    #[test]
    fn candidates_of_one_token_need_only_their_prompt() {
        let one = example(&[(&[1, 2, 3, 10], 3), (&[1, 2, 3, 11], 3)]);
        let two = example(&[(&[4, 5, 12], 2), (&[4, 5, 13], 2), (&[4, 5, 14], 2)]);
        let batch = Batch::new(LossKind::Classification, [&one, &two]);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5]);
        assert_eq!(batch.sequences, [Sequence::alone(0..3), Sequence::alone(3..5)]);
        assert_eq!(targets(&batch), [(2, 10), (2, 11), (4, 12), (4, 13), (4, 14)]);
        assert_eq!([one.rows(), two.rows()], [3, 2]);
        assert_eq!(batch.scoring.examples[1].candidates, [2..3, 3..4, 4..5]);
    }

    #[test]
    fn longer_candidates_continue_their_prompt_without_their_last_token() {
        let example = example(&[(&[1, 2, 11, 12], 2), (&[1, 2, 10], 2), (&[1, 2, 11, 13, 14], 2)]);
        let batch = Batch::new(LossKind::Classification, [&example]);
        assert_eq!(batch.tokens, [1, 2, 11, 11, 13]);
        let continued = |rows| Sequence { rows, prefix: 0..2 };
        assert_eq!(batch.sequences, [Sequence::alone(0..2), continued(2..3), continued(3..5)]);
        assert_eq!(targets(&batch), [(1, 11), (2, 12), (1, 10), (1, 11), (3, 13), (4, 14)]);
        assert_eq!(batch.scoring.examples[0].candidates, [0..2, 2..3, 3..6]);
        assert_eq!(example.rows(), 5);
    }

    #[test]
    fn prompts_are_shared_up_to_the_first_token_that_differs() {
        // A merge across the border: the prompt's last token differs between the candidates.
        let one = example(&[(&[1, 2, 10], 2), (&[1, 3, 11], 2)]);
        let batch = Batch::new(LossKind::Classification, [&one]);
        let continued = |rows| Sequence { rows, prefix: 0..1 };
        assert_eq!(batch.sequences, [Sequence::alone(0..1), continued(1..2), continued(2..3)]);
        assert_eq!(targets(&batch), [(1, 10), (2, 11)]);

        let nothing = example(&[(&[1, 10], 1), (&[2, 11], 1)]);
        let batch = Batch::new(LossKind::Classification, [&nothing]);
        assert_eq!(batch.sequences, [Sequence::alone(0..1), Sequence::alone(1..2)]);
    }

    #[test]
    fn several_spans_of_a_text_are_scored_and_nothing_after_the_last_is_read() {
        let chat = Candidate { tokens: vec![1, 2, 3, 4, 5, 6, 7], scored: vec![1..3, 4..6], characters: 0 };
        assert_eq!((chat.prompt(), chat.read()), (&[1][..], 5));
        let example = TokenizedExample { row: 0, candidates: vec![chat], gold: vec![0] };
        let batch = Batch::new(LossKind::Completion, [&example]);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5]);
        assert_eq!(targets(&batch), [(0, 2), (1, 3), (3, 5), (4, 6)]);
        assert_eq!(batch.losses(&[-1.0, -1.0, -1.0, -5.0])[0].mean(), 2.0);
    }

    #[test]
    fn each_pass_over_a_batch_has_a_loss_of_its_own() {
        let batch = Batch::new(LossKind::Completion, [&example(&[(&[1, 2, 3], 1)])]);
        let means =
            |logprobs: &[f32]| batch.losses(logprobs).into_iter().map(LossSum::mean).collect::<Vec<_>>();
        assert_eq!(means(&[-1.0, -2.0]), [1.5]);
        assert_eq!(means(&[-1.0, -2.0, -3.0, -4.0]), [1.5, 3.5]);
    }
}
