//! The rows of each step's batch, and the rows that are set aside for evaluation. Both depend on the seed alone and are
//! the same on every platform.

use crate::error::{Error, Result};
use crate::rng::{Stream, random_bits};

/// Rows of the batch that begins after `cursor` examples of the run.
///
/// Every epoch goes through all `n` rows in an order of its own; a batch may straddle two epochs. A run resumes from
/// the cursor alone.
pub fn batch_indices(seed: u64, cursor: u64, batch_size: usize, n: usize) -> Vec<usize> {
    Sampler::new(seed, n).batch(cursor, batch_size)
}

/// Gives `batch_indices` and keeps an epoch's order from one batch to the next.
#[derive(Debug, Clone)]
pub struct Sampler {
    seed: u64,
    n: usize,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Sampler {
    pub fn new(seed: u64, n: usize) -> Self {
        Self { seed, n, epoch: None }
    }

    /// Rows of the batch that begins after `cursor` examples; none if there are no rows at all.
    pub fn batch(&mut self, cursor: u64, batch_size: usize) -> Vec<usize> {
        let n = self.n as u64;
        if n == 0 {
            return Vec::new();
        }
        (0..batch_size as u64)
            .map(|i| {
                let at = cursor.wrapping_add(i);
                self.order(at / n)[(at % n) as usize]
            })
            .collect()
    }

    fn order(&mut self, epoch: u64) -> &[usize] {
        let (seed, n) = (self.seed, self.n);
        if self.epoch.as_ref().is_none_or(|(cached, _)| *cached != epoch) {
            self.epoch = None;
        }
        &self.epoch.get_or_insert_with(|| (epoch, permutation(seed, epoch, Stream::Epoch, n))).1
    }
}

/// Splits `n` rows into those to train on and `dev` rows to evaluate on, which are the tail of a seeded permutation.
///
/// # Errors
/// No row is left to train on.
pub fn split(n: usize, dev: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    if dev >= n {
        return Err(Error::invalid(
            format!("dev_size = {dev} of {n} rows leaves none to train on"),
            "lower dev_size, or give a dev file",
        ));
    }
    let mut train = permutation(seed, 0, Stream::Split, n);
    let dev = train.split_off(n - dev);
    Ok((train, dev))
}

/// The rows, sorted by 64 random bits each.
fn permutation(seed: u64, epoch: u64, stream: Stream, n: usize) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = (0..n)
        .map(|row| {
            let [low, high, ..] = random_bits(seed, [row as u32, epoch as u32, (epoch >> 32) as u32], stream);
            (u64::from(high) << 32 | u64::from(low), row)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 0x1234_5678_9abc_def0;

    #[test]
    fn orders_agree_with_an_independent_philox() {
        // scripts/fixtures/tokenizing.py prints these.
        assert_eq!(permutation(SEED, 0, Stream::Epoch, 10), [2, 9, 4, 8, 5, 3, 1, 6, 7, 0]);
        assert_eq!(permutation(SEED, 1, Stream::Epoch, 10), [1, 9, 8, 4, 3, 5, 0, 6, 7, 2]);
        assert_eq!(permutation(0, 0, Stream::Split, 10), [4, 6, 1, 2, 3, 8, 9, 0, 5, 7]);
    }

    #[test]
    fn every_epoch_takes_each_row_once_in_an_order_of_its_own() {
        let epoch = |e: u64| batch_indices(SEED, e * 100, 100, 100);
        for e in 0..3 {
            let mut rows = epoch(e);
            assert_ne!(rows, epoch(e + 1));
            rows.sort_unstable();
            assert_eq!(rows, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_straddle_epochs_and_depend_on_the_cursor_alone() {
        let all = batch_indices(SEED, 0, 70, 7);
        let mut sampler = Sampler::new(SEED, 7);
        for step in 0..14 {
            let batch = sampler.batch(step * 5, 5);
            assert_eq!(batch, all[step as usize * 5..][..5]);
            assert_eq!(batch, batch_indices(SEED, step * 5, 5, 7));
        }
        // A batch larger than the data takes rows again.
        assert_eq!(batch_indices(SEED, 0, 21, 7), all[..21]);
        assert!(batch_indices(SEED, 0, 4, 0).is_empty());
    }

    #[test]
    fn a_split_puts_each_row_on_one_side() {
        let (train, dev) = split(100, 30, 5).unwrap();
        let mut rows = [train.clone(), dev.clone()].concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..100).collect::<Vec<_>>());
        assert_eq!((train.len(), dev.len()), (70, 30));
        assert_ne!(split(100, 30, 6).unwrap().1, dev);
        assert!(split(10, 10, 0).unwrap_err().to_string().contains("dev_size = 10 of 10 rows"));
    }
}
