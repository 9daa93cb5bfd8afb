//! The rows of each step, and its start.

use super::TrainConfig;
use crate::train::method::StepStart;
use crate::train::objective::Objective;
use crate::zo::direction::step_seed;
use crate::zo::journal::Hash;

impl TrainConfig {
    /// Number of parts of a step's rows.
    pub(super) fn parts(&self) -> usize {
        self.gradient_accumulation_steps.unwrap_or(1)
    }

    /// The first row and the number of rows of each part of `step`, in the run's order.
    pub fn row_parts(&self, step: u64) -> impl Iterator<Item = (u64, usize)> {
        let (rows, parts, first) = (self.batch_size, self.parts(), self.rows_before(step));
        let edge = move |part: usize| part * rows / parts;
        (0..parts).map(move |part| (first + edge(part) as u64, edge(part + 1) - edge(part)))
    }

    /// The batches of `step`, one for each part of its rows.
    pub fn batches<O: Objective>(&self, objective: &mut O, step: u64) -> Vec<O::Batch> {
        self.row_parts(step).map(|(first, rows)| objective.batch(first, rows)).collect()
    }

    /// Number of steps in which a run goes through `rows` so many times.
    pub fn steps_of(&self, epochs: f64, rows: usize) -> u64 {
        (epochs * rows as f64 / self.batch_size as f64).ceil().max(1.0) as u64
    }

    /// Number of rows of the run's order that the steps before `step` use.
    pub fn rows_before(&self, step: u64) -> u64 {
        step * self.batch_size as u64
    }

    /// The start of `step` in a run with the seed `run_seed`. `snapshot` is the digest of the last snapshot.
    pub fn step_start(&self, run_seed: u64, step: u64, snapshot: Hash) -> StepStart {
        StepStart {
            step,
            seed: step_seed(run_seed, step),
            learning_rate: self.learning_rate_at(step),
            rate_left: 1.0,
            loss_limit: f64::INFINITY,
            data_cursor: self.rows_before(step + 1),
            snapshot,
        }
    }
}
