//! From the log-probabilities of a batch's targets to losses and predictions.

use std::ops::{Add, Range};

/// Definition of a batch's loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// Cross-entropy over the candidates' mean log-probabilities (MeZO), weighted by examples.
    Classification,
    /// Negative log-likelihood of the gold candidate, weighted by its scored tokens.
    Completion,
}

/// A sum of losses with its weight, the number of examples or tokens in it. Sums of the parts of a batch add up
/// to the sum of the batch; means do not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSum {
    pub sum: f64,
    pub weight: f64,
}

impl LossSum {
    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }
}

impl Add for LossSum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum, weight: self.weight + other.weight }
    }
}

/// The targets of a batch by example and candidate. In the methods `logprobs[i]` is the answer to target `i`; sums run in
/// f64, in the order of the targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scoring {
    pub loss_kind: LossKind,
    pub examples: Vec<ScoredExample>,
}

/// The targets of one example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoredExample {
    /// Each candidate's range of targets, never empty.
    pub candidates: Vec<Range<usize>>,
    /// Indices of the right candidates; training aims at the first.
    pub gold: Vec<usize>,
}

impl Scoring {
    /// The loss of the batch, of its kind.
    pub fn loss(&self, logprobs: &[f32]) -> LossSum {
        match self.loss_kind {
            LossKind::Classification => self.classification_loss(logprobs),
            LossKind::Completion => self.completion_loss(logprobs),
        }
    }

    /// The weight of the loss.
    pub fn weight(&self) -> f64 {
        match self.loss_kind {
            LossKind::Classification => self.examples.len() as f64,
            LossKind::Completion => {
                self.examples.iter().filter_map(ScoredExample::target).map(Range::len).sum::<usize>() as f64
            }
        }
    }

    /// Derivatives of the loss's sum, divided by `weight`, with respect to each log-probability.
    pub fn derivatives(&self, logprobs: &[f32], weight: f64) -> Vec<f32> {
        let mut derivatives = vec![0.0; logprobs.len()];
        for example in &self.examples {
            match self.loss_kind {
                LossKind::Classification => {
                    let shares = softmax(&example.scores(logprobs));
                    for (choice, (range, share)) in example.candidates.iter().zip(shares).enumerate() {
                        let is_gold = example.gold.first() == Some(&choice);
                        let of_score = share - if is_gold { 1.0 } else { 0.0 };
                        derivatives[range.clone()].fill((of_score / (weight * range.len() as f64)) as f32);
                    }
                }
                LossKind::Completion => {
                    let range = example.target().cloned().unwrap_or_default();
                    derivatives[range].fill((-1.0 / weight) as f32);
                }
            }
        }
        derivatives
    }

    fn classification_loss(&self, logprobs: &[f32]) -> LossSum {
        let sum = self.examples.iter().map(|e| e.cross_entropy(logprobs)).sum();
        LossSum { sum, weight: self.examples.len() as f64 }
    }

    fn completion_loss(&self, logprobs: &[f32]) -> LossSum {
        let targets = self.examples.iter().filter_map(ScoredExample::target);
        let (sum, tokens) = targets.fold((0.0, 0), |(sum, tokens), range| {
            let of_example: f64 = logprobs[range.clone()].iter().map(|&l| f64::from(l)).sum();
            (sum + of_example, tokens + range.len())
        });
        LossSum { sum: -sum, weight: tokens as f64 }
    }
}

impl ScoredExample {
    /// Mean log-probability of each candidate's tokens.
    fn scores(&self, logprobs: &[f32]) -> Vec<f64> {
        self.candidates.iter().map(|range| sum(logprobs, range) / range.len() as f64).collect()
    }

    /// The candidate for which the sum of its tokens' log-probabilities, divided by `length` of its index, is highest; the
    /// first of equals.
    pub fn best(&self, logprobs: &[f32], length: impl Fn(usize) -> usize) -> usize {
        let mut best = (0, f64::NEG_INFINITY);
        for (i, range) in self.candidates.iter().enumerate() {
            let score = sum(logprobs, range) / length(i) as f64;
            if score > best.1 {
                best = (i, score);
            }
        }
        best.0
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

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|e| e / sum).collect()
}

fn sum(logprobs: &[f32], range: &Range<usize>) -> f64 {
    logprobs[range.clone()].iter().map(|&logprob| f64::from(logprob)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scoring(loss_kind: LossKind, examples: &[(&[Range<usize>], &[usize])]) -> Scoring {
        let examples = examples
            .iter()
            .map(|(candidates, gold)| ScoredExample { candidates: candidates.to_vec(), gold: gold.to_vec() });
        Scoring { loss_kind, examples: examples.collect() }
    }

    /// The candidate of each example with the highest mean log-probability.
    fn choices(scoring: &Scoring, logprobs: &[f32]) -> Vec<usize> {
        scoring.examples.iter().map(|e| e.best(logprobs, |i| e.candidates[i].len())).collect()
    }

    #[test]
    fn classification_loss_is_cross_entropy_over_mean_log_probabilities() {
        let examples: [(&[_], &[_]); 2] = [(&[0..1, 1..3], &[1]), (&[3..4, 4..5], &[0])];
        let whole = scoring(LossKind::Classification, &examples);
        let logprobs = [-1.0, -2.0, -4.0, -0.5, -1.5];
        // Scores −1, −3 with gold 1; −0.5, −1.5 with gold 0.
        let expected = [(1.0 + 2.0_f64.exp()).ln(), (1.0 + (-1.0_f64).exp()).ln()];
        let parts = examples.map(|example| scoring(LossKind::Classification, &[example]).loss(&logprobs));
        for (part, expected) in parts.iter().zip(expected) {
            assert!((part.sum - expected).abs() < 1e-12 && part.weight == 1.0, "{part:?}");
        }
        assert_eq!(whole.loss(&logprobs), parts[0] + parts[1]);
        assert!((whole.loss(&logprobs).mean() - (expected[0] + expected[1]) / 2.0).abs() < 1e-12);
        assert_eq!(choices(&whole, &logprobs), [0, 0]);
    }

    #[test]
    fn completion_loss_is_weighted_by_tokens_not_by_examples() {
        let (one, three) = (0..1, 1..4);
        let examples = [&one, &three].map(|range| (std::slice::from_ref(range), &[0][..]));
        let loss = scoring(LossKind::Completion, &examples).loss(&[-4.0, -1.0, -2.0, -3.0]);
        assert_eq!(loss, LossSum { sum: 10.0, weight: 4.0 });
        assert_eq!(loss.mean(), 2.5);
    }

    #[test]
    fn derivatives_agree_with_finite_differences() {
        let examples: [(&[_], &[_]); 2] = [(&[0..1, 1..3], &[1]), (&[3..4, 4..5], &[0])];
        let logprobs = [-1.0, -2.0, -4.0, -0.5, -1.5];
        for loss_kind in [LossKind::Classification, LossKind::Completion] {
            let scoring = scoring(loss_kind, &examples);
            let weight = scoring.weight();
            assert_eq!(scoring.loss(&logprobs).weight, weight);
            for (i, derivative) in scoring.derivatives(&logprobs, weight).into_iter().enumerate() {
                let at = |step: f32| {
                    let mut logprobs = logprobs;
                    logprobs[i] += step;
                    scoring.loss(&logprobs).mean()
                };
                let want = (at(1.0 / 256.0) - at(-1.0 / 256.0)) * 128.0;
                assert!(
                    (f64::from(derivative) - want).abs() < 1e-5,
                    "{loss_kind:?} {i}: {derivative} {want}"
                );
            }
        }
    }

    #[test]
    fn sums_prefer_short_candidates_and_lengths_correct_for_it() {
        let scoring = scoring(LossKind::Classification, &[(&[0..1, 1..3, 3..7], &[0])]);
        // Sums −1.5, −2, −2.8; means −1.5, −1, −0.7.
        let logprobs = [-1.5, -1.0, -1.0, -0.7, -0.7, -0.7, -0.7];
        let example = &scoring.examples[0];
        assert_eq!(example.best(&logprobs, |_| 1), 0);
        assert_eq!(choices(&scoring, &logprobs), [2]);
        assert_eq!(example.best(&logprobs, |i| [3, 12, 5][i]), 1);
        assert_eq!(example.best(&[-2.0; 7], |_| 1), 0);
        assert_eq!(
            example.best(&[-1.0, -0.5, -0.5, -2.0, -2.0, -2.0, -2.0], |_| 1),
            0,
            "the first of equals"
        );
    }

    #[test]
    fn a_nan_log_probability_gives_a_nan_loss() {
        let scoring = scoring(LossKind::Classification, &[(&[0..1, 1..2], &[1])]);
        assert!(scoring.loss(&[f32::NAN, -1.0]).mean().is_nan());
        assert!(scoring.loss(&[f32::NEG_INFINITY, f32::NEG_INFINITY]).mean().is_nan());
        assert_eq!(choices(&scoring, &[f32::NAN, -1.0]), [1]);
    }
}
