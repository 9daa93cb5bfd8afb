//! The interface between the training loop and the methods of training.

use std::borrow::Cow;

use half::bf16;

use super::objective::Objective;
use crate::error::{Error, Result};
use crate::zo::journal::{Hash, JournalMethod, Record};

/// A method of training. To add one, write a file here, and add its fields to `zo::journal` and its name to
/// [`super::MethodKind`].
pub trait Method<O: Objective + ?Sized> {
    /// The method as the journal's header records it.
    fn journal_method(&self) -> JournalMethod;

    /// Takes a step on the rows of all `batches` and returns its record. Moves that follow from the record are applied by
    /// the caller, once the record is durable. A method makes all other updates itself before it returns.
    ///
    /// # Errors
    /// The device fails. A loss that is NaN or infinite, or has run away, is no error: the step is then skipped.
    fn take(
        &mut self,
        now: StepStart,
        objective: &O,
        model: &mut O::Model,
        batches: &[O::Batch],
    ) -> Result<Record>;

    /// The measure of the gradient that a record holds.
    ///
    /// # Errors
    /// The record is of another method.
    fn gradient(&self, record: &Record) -> Result<Gradient>;

    /// Number of passes over its batch that a step takes.
    fn passes(&self) -> f64;

    /// The optimizer's state, as names and values. Snapshots keep it beside the scales.
    fn state(&self) -> Vec<(String, Cow<'_, [bf16]>)> {
        Vec::new()
    }

    /// Restores the optimizer's state from a snapshot.
    ///
    /// # Errors
    /// The state is not one of this method.
    fn restore(&mut self, state: Vec<(String, Vec<bf16>)>) -> Result<()> {
        match state.is_empty() {
            true => Ok(()),
            false => Err(Error::internal("the snapshot holds optimizer state, but the method has none")),
        }
    }
}

/// The inputs of a step that the loop determines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepStart {
    /// Number of the step, from 0.
    pub step: u64,
    /// Seed of the step, derived from the run's seed.
    pub seed: u64,
    pub learning_rate: f64,
    /// The share that earlier returns to a snapshot have left of the learning rate. It is part of `learning_rate` already.
    pub rate_left: f64,
    /// Largest loss with which a method of exact gradients takes a step; it skips the step otherwise.
    pub loss_limit: f64,
    /// Rows of the run's order that are used up after the step.
    pub data_cursor: u64,
    /// Digest of the last snapshot; zeros if there is none.
    pub snapshot: Hash,
}

/// The size of the gradient in a step, as its method measures it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gradient {
    /// Derivative along the direction of the step; the mean if there are several directions.
    Projected(f64),
    /// Euclidean norm of the gradient.
    Norm(f64),
}
