//! Tells a loss that has run away, from the losses of the steps before.

/// Number of first losses whose mean is the loss at the start of the run.
const FIRST: u32 = 5;
/// Weight of a new loss in the running mean.
const SHARE: f64 = 0.1;
/// A loss has run away if it is so many times the larger of the running mean and the loss at the start: a batch that is
/// much harder than the others, late in a run, is no divergence.
const FACTOR: f64 = 3.0;

/// The losses of a run so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses {
    count: u32,
    /// Mean of the first losses.
    start: f64,
    /// Running mean.
    mean: f64,
}

impl Losses {
    /// Adds the loss of a step that was taken.
    pub fn add(&mut self, loss: f64) {
        self.count += 1;
        if self.count <= FIRST {
            self.start += (loss - self.start) / f64::from(self.count);
            self.mean = self.start;
        } else {
            self.mean += SHARE * (loss - self.mean);
        }
    }

    /// The largest loss that has not run away. There is none before the first losses are known.
    pub fn limit(&self) -> f64 {
        if self.count < FIRST { f64::INFINITY } else { FACTOR * self.mean.max(self.start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_may_be_three_times_that_of_the_start() {
        let mut losses = Losses::default();
        for loss in [1.0, 2.0, 3.0, 2.0] {
            losses.add(loss);
            assert_eq!(losses.limit(), f64::INFINITY);
        }
        losses.add(2.0);
        assert_eq!(losses.limit(), 6.0);
        (0..100).for_each(|_| losses.add(0.01));
        assert_eq!(losses.limit(), 6.0);
        // A mean that rises slowly raises the limit.
        (0..100).for_each(|_| losses.add(4.0));
        assert!((losses.limit() - 12.0).abs() < 0.01);
    }
}
