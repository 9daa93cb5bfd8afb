//! A batch as a model reads it: sequences end to end without padding, and the places where the
//! probability of one token is asked for. `Scoring` turns the answers back into losses and predictions.

use std::ops::Range;

use super::tokenized::{Candidate, TokenizedExample};

/// What the loss of a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Cross-entropy over the candidates' mean log-probabilities, mean over examples (MeZO).
    Classification,
    /// Negative log-likelihood, mean over all scored tokens of the batch.
    Completion,
}

/// Asks for log p(`token` | the sequence up to and including `row`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Index into `Batch::tokens`.
    pub row: u32,
    pub token: u32,
}

/// Some rows of a batch that follow one another in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub rows: Range<usize>,
    /// Earlier rows that the text begins with, where others continue them, too: they are read once.
    pub prefix: Range<usize>,
}

impl Sequence {
    /// One that stands alone: it attends to itself, from position 0.
    pub fn alone(rows: Range<usize>) -> Self {
        Self { rows, prefix: 0..0 }
    }
}

/// How much a batch asks of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Load {
    /// Rows.
    pub tokens: usize,
    /// Rows whose logits are needed.
    pub scored: usize,
}

impl Load {
    /// At least as much of everything.
    pub fn max(self, other: Self) -> Self {
        Self { tokens: self.tokens.max(other.tokens), scored: self.scored.max(other.scored) }
    }
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self::default(), |a, b| Self { tokens: a.tokens + b.tokens, scored: a.scored + b.scored })
    }
}

/// A loss as a sum over rows or tokens, to which other rows' can be added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSum {
    /// In nats.
    pub sum: f64,
    /// Rows or tokens that it is the sum of.
    pub weight: f64,
}

impl LossSum {
    pub fn mean(self) -> f64 {
        self.sum / self.weight
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

/// Which targets belong to which candidate of which example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scoring {
    pub objective: Objective,
    pub examples: Vec<ScoredExample>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoredExample {
    /// Per candidate: its range of `Batch::targets`, never empty.
    pub candidates: Vec<Range<usize>>,
    /// Indices of the right candidates; training aims at the first.
    pub gold: Vec<usize>,
}

impl Batch {
    /// What the candidates of an example have in common, at least up to the first scored token, is read
    /// once, and each candidate's rest continues it.
    pub fn new<'e>(objective: Objective, examples: impl IntoIterator<Item = &'e TokenizedExample>) -> Self {
        let scoring = Scoring { objective, examples: Vec::new() };
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

    /// The loss of each part of the answers, which stand end to end: as many as `targets` make a part.
    pub fn losses(&self, logprobs: &[f32]) -> Vec<LossSum> {
        logprobs
            .chunks_exact(self.targets.len().max(1))
            .map(|answers| self.scoring.loss_sum(answers))
            .collect()
    }

    fn push_example(&mut self, example: &TokenizedExample) {
        let shared = shared_length(&example.candidates);
        let prefix = match example.candidates.first() {
            Some(candidate) if shared > 0 => self.push_sequence(&candidate.tokens[..shared], 0..0),
            _ => 0..0,
        };
        let candidates = example.candidates.iter().map(|candidate| {
            let rest = &candidate.tokens[shared..candidate.read()];
            let rest = if rest.is_empty() { 0..0 } else { self.push_sequence(rest, prefix.clone()) };
            let row = |at: usize| if at < shared { prefix.start + at } else { rest.start + at - shared };
            let start = self.targets.len();
            let first = candidate.tokens.len() - candidate.scored;
            self.targets.extend(
                (first..candidate.tokens.len())
                    .map(|at| Target { row: row(at - 1) as u32, token: candidate.tokens[at] }),
            );
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

/// Rows that an example takes in a batch.
pub fn rows(example: &TokenizedExample) -> usize {
    let shared = shared_length(&example.candidates);
    shared + example.candidates.iter().map(|c| c.read() - shared).sum::<usize>()
}

/// Tokens that all candidates begin with, of those that are read.
fn shared_length(candidates: &[Candidate]) -> usize {
    let Some((first, others)) = candidates.split_first() else { return 0 };
    others.iter().fold(first.read(), |shared, other| {
        let same = first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
        shared.min(same).min(other.read())
    })
}

/// `logprobs[i]` answers `targets[i]`; sums run in f64, in the order of the targets.
impl Scoring {
    pub fn loss_sum(&self, logprobs: &[f32]) -> LossSum {
        match self.objective {
            Objective::Classification => LossSum {
                sum: self.examples.iter().map(|e| e.cross_entropy(logprobs)).sum(),
                weight: self.examples.len() as f64,
            },
            Objective::Completion => {
                let (sum, tokens) =
                    self.examples.iter().filter_map(ScoredExample::target).fold((0.0, 0), |(s, n), range| {
                        (s + range.clone().map(|i| f64::from(logprobs[i])).sum::<f64>(), n + range.len())
                    });
                LossSum { sum: -sum, weight: tokens as f64 }
            }
        }
    }

    /// The batch's loss by its objective.
    pub fn loss(&self, logprobs: &[f32]) -> f64 {
        match self.objective {
            Objective::Classification => self.classification_loss(logprobs),
            Objective::Completion => self.completion_loss(logprobs),
        }
    }

    /// Mean over examples of the cross-entropy over the candidates' mean log-probabilities.
    pub fn classification_loss(&self, logprobs: &[f32]) -> f64 {
        let examples = self.examples.iter();
        examples.map(|e| e.cross_entropy(logprobs)).sum::<f64>() / self.examples.len() as f64
    }

    /// Mean over the gold candidates' tokens of −log p.
    pub fn completion_loss(&self, logprobs: &[f32]) -> f64 {
        let (sum, tokens) =
            self.examples.iter().filter_map(ScoredExample::target).fold((0.0, 0), |(s, n), range| {
                (s + range.clone().map(|i| f64::from(logprobs[i])).sum::<f64>(), n + range.len())
            });
        -sum / tokens as f64
    }

    /// Per example: cross-entropy over its candidates, or mean −log p over its completion's tokens.
    pub fn example_nll(&self, logprobs: &[f32]) -> Vec<f64> {
        let nll = |e: &ScoredExample| match self.objective {
            Objective::Classification => e.cross_entropy(logprobs),
            Objective::Completion => e.target().map_or(f64::NAN, |range| -mean(logprobs, range)),
        };
        self.examples.iter().map(nll).collect()
    }

    /// Per example the candidate with the highest mean log-probability; the first of equals.
    pub fn predictions(&self, logprobs: &[f32]) -> Vec<usize> {
        let best = |e: &ScoredExample| {
            let mut best = (0, f64::NEG_INFINITY);
            for (i, score) in e.scores(logprobs).into_iter().enumerate() {
                if score > best.1 {
                    best = (i, score);
                }
            }
            best.0
        };
        self.examples.iter().map(best).collect()
    }

    /// Per example whether its prediction is a gold candidate.
    pub fn correct(&self, logprobs: &[f32]) -> Vec<bool> {
        self.examples
            .iter()
            .zip(self.predictions(logprobs))
            .map(|(e, guess)| e.gold.contains(&guess))
            .collect()
    }
}

impl ScoredExample {
    /// Mean log-probability of each candidate's tokens.
    pub fn scores(&self, logprobs: &[f32]) -> Vec<f64> {
        self.candidates.iter().map(|range| mean(logprobs, range)).collect()
    }

    fn target(&self) -> Option<&Range<usize>> {
        self.candidates.get(*self.gold.first()?)
    }

    fn cross_entropy(&self, logprobs: &[f32]) -> f64 {
        let scores = self.scores(logprobs);
        let Some(&gold) = self.gold.first().and_then(|&gold| scores.get(gold)) else { return f64::NAN };
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        max + sum.ln() - gold
    }
}

fn mean(logprobs: &[f32], range: &Range<usize>) -> f64 {
    let sum: f64 = logprobs[range.clone()].iter().map(|&logprob| f64::from(logprob)).sum();
    sum / range.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(candidates: &[(&[u32], usize)], gold: &[usize]) -> TokenizedExample {
        let candidates =
            candidates.iter().map(|(t, scored)| Candidate { tokens: t.to_vec(), scored: *scored });
        TokenizedExample { line: 1, candidates: candidates.collect(), gold: gold.to_vec() }
    }

    fn targets(batch: &Batch) -> Vec<(u32, u32)> {
        batch.targets.iter().map(|t| (t.row, t.token)).collect()
    }

    #[test]
    fn candidates_of_one_token_need_nothing_but_their_prompt() {
        let one = example(&[(&[1, 2, 3, 10], 1), (&[1, 2, 3, 11], 1)], &[1]);
        let two = example(&[(&[4, 5, 12], 1), (&[4, 5, 13], 1), (&[4, 5, 14], 1)], &[0]);
        let batch = Batch::new(Objective::Classification, [&one, &two]);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5]);
        assert_eq!(batch.sequences, [Sequence::alone(0..3), Sequence::alone(3..5)]);
        assert_eq!(targets(&batch), [(2, 10), (2, 11), (4, 12), (4, 13), (4, 14)]);
        assert_eq!([rows(&one), rows(&two)], [3, 2]);
        assert_eq!(batch.scoring.examples[1].candidates, [2..3, 3..4, 4..5]);
    }

    #[test]
    fn longer_candidates_continue_their_prompt_without_their_last_token() {
        let example = example(&[(&[1, 2, 11, 12], 2), (&[1, 2, 10], 1), (&[1, 2, 11, 13, 14], 3)], &[0]);
        let batch = Batch::new(Objective::Classification, [&example]);
        assert_eq!(batch.tokens, [1, 2, 11, 11, 13]);
        let continued = |rows| Sequence { rows, prefix: 0..2 };
        assert_eq!(batch.sequences, [Sequence::alone(0..2), continued(2..3), continued(3..5)]);
        assert_eq!(targets(&batch), [(1, 11), (2, 12), (1, 10), (1, 11), (3, 13), (4, 14)]);
        assert_eq!(batch.scoring.examples[0].candidates, [0..2, 2..3, 3..6]);
        assert_eq!(rows(&example), 5);
    }

    #[test]
    fn prompts_that_an_option_changes_are_shared_up_to_there() {
        // A merge across the border: the prompt's last token differs between the candidates.
        let one = example(&[(&[1, 2, 10], 1), (&[1, 3, 11], 1)], &[0]);
        let batch = Batch::new(Objective::Classification, [&one]);
        let continued = |rows| Sequence { rows, prefix: 0..1 };
        assert_eq!(batch.sequences, [Sequence::alone(0..1), continued(1..2), continued(2..3)]);
        assert_eq!(targets(&batch), [(1, 10), (2, 11)]);

        let nothing = example(&[(&[1, 10], 1), (&[2, 11], 1)], &[0]);
        let batch = Batch::new(Objective::Classification, [&nothing]);
        assert_eq!(batch.sequences, [Sequence::alone(0..1), Sequence::alone(1..2)]);
    }

    #[test]
    fn classification_loss_is_cross_entropy_over_mean_log_probabilities() {
        let examples = [
            example(&[(&[1, 2, 10], 1), (&[1, 2, 11, 12], 2)], &[1]),
            example(&[(&[1, 5], 1), (&[1, 6], 1)], &[0]),
        ];
        let scoring = Batch::new(Objective::Classification, &examples).scoring;
        let logprobs = [-1.0, -2.0, -4.0, -0.5, -1.5];
        // Scores −1, −3 with gold 1; −0.5, −1.5 with gold 0.
        let expected = [(1.0 + 2.0_f64.exp()).ln(), (1.0 + (-1.0_f64).exp()).ln()];
        let nll = scoring.example_nll(&logprobs);
        assert!((nll[0] - expected[0]).abs() < 1e-12 && (nll[1] - expected[1]).abs() < 1e-12, "{nll:?}");
        assert!((scoring.loss(&logprobs) - (expected[0] + expected[1]) / 2.0).abs() < 1e-12);
        assert_eq!(scoring.predictions(&logprobs), [0, 0]);
        assert_eq!(scoring.correct(&logprobs), [false, true]);
    }

    #[test]
    fn completion_loss_is_a_mean_over_tokens_not_over_examples() {
        let examples = [example(&[(&[1, 2, 3], 1)], &[0]), example(&[(&[1, 2, 3, 4], 3)], &[0])];
        let batch = Batch::new(Objective::Completion, &examples);
        assert_eq!(targets(&batch), [(1, 3), (2, 2), (3, 3), (4, 4)]);
        let logprobs = [-4.0, -1.0, -2.0, -3.0];
        assert_eq!(batch.scoring.loss(&logprobs), 2.5);
        assert_eq!(batch.scoring.example_nll(&logprobs), [4.0, 2.0]);
    }

    #[test]
    fn any_of_several_gold_candidates_is_right() {
        let example = example(&[(&[1, 5], 1), (&[1, 6], 1), (&[1, 7], 1)], &[1, 2]);
        let scoring = Batch::new(Objective::Classification, [&example]).scoring;
        assert_eq!(scoring.correct(&[-3.0, -2.0, -1.0]), [true]);
        assert_eq!(scoring.correct(&[-1.0, -2.0, -3.0]), [false]);
    }

    #[test]
    fn a_loss_that_is_not_a_number_shows() {
        let example = example(&[(&[1, 5], 1), (&[1, 6], 1)], &[1]);
        let scoring = Batch::new(Objective::Classification, [&example]).scoring;
        assert!(scoring.loss(&[f32::NAN, -1.0]).is_nan());
        assert!(scoring.loss(&[f32::NEG_INFINITY, f32::NEG_INFINITY]).is_nan());
        assert_eq!(scoring.predictions(&[f32::NAN, -1.0]), [1]);
    }
}
