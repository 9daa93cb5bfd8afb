//! How a step is taken: the seam between the loop and the methods of training.

use super::objective::Objective;
use crate::error::{Error, Result};
use crate::zo::journal::{Hash, Record, Recorded};

/// A method of training. To add one: a file here, its fields in `zo::journal`, its name in [`super::MethodKind`].
pub trait Method<O: Objective + ?Sized> {
    /// How its steps are journalled.
    fn recorded(&self) -> Recorded;

    /// Takes a step up to its record. Moves that the record implies are made by the caller once it is durable; a
    /// [`crate::model::Update::Dense`] has been applied when this returns.
    ///
    /// # Errors
    /// The device fails. A loss that is NaN or infinite is no error: the step is then skipped.
    fn take(
        &mut self,
        now: StepStart,
        objective: &O,
        model: &mut O::Model,
        batch: &O::Batch,
    ) -> Result<Record>;

    /// The gradient that a record tells of.
    fn gradient(&self, record: &Record) -> Gradient;

    /// Passes over a batch that a step takes.
    fn passes(&self) -> f64;

    /// The state of its optimizer, by names. It is kept in snapshots beside the scales.
    fn state(&self) -> Vec<(String, &[f32])> {
        Vec::new()
    }

    /// Takes the state that a snapshot holds.
    ///
    /// # Errors
    /// It is not the state of this method.
    fn restore(&mut self, state: Vec<(String, Vec<f32>)>) -> Result<()> {
        match state.is_empty() {
            true => Ok(()),
            false => Err(Error::internal("a snapshot with an optimizer's state, for a method without one")),
        }
    }
}

/// The circumstances in which a step begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepStart {
    /// Counted from 0.
    pub step: u64,
    /// Seed of the step, which follows from the run's.
    pub seed: u64,
    pub learning_rate: f64,
    /// Rows taken when the step is done.
    pub data_cursor: u64,
    /// Digest of the last snapshot; zeros where there is none.
    pub snapshot: Hash,
}

/// A step's measure of the gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gradient {
    /// Along the direction of the step; of several directions, the mean.
    Projected(f64),
    /// Euclidean norm.
    Norm(f64),
}
