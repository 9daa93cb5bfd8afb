//! The objective of training: a loss over batches of rows, as a function of the scales.

use crate::data::LossSum;
use crate::error::Result;
use crate::eval::TaskReport;
use crate::model::Scales;
use crate::zo::direction::Signs;

/// A loss for which scales can be trained. The training loop uses data and model only through this trait.
pub trait Objective {
    /// The model, whose scales determine the loss.
    type Model: Scales + ?Sized;
    type Batch;

    /// Makes a batch of the `size` rows that follow the first `cursor` rows of the run's order.
    fn batch(&mut self, cursor: u64, size: usize) -> Self::Batch;

    /// Number of tokens that one pass over the batch reads.
    fn tokens(&self, batch: &Self::Batch) -> usize;

    /// Computes the batch's loss for each part of `signs`, as sums to which the losses of other rows can be added.
    ///
    /// # Errors
    /// The device fails.
    fn losses(&self, model: &Self::Model, batch: &Self::Batch, signs: Signs) -> Result<Vec<LossSum>>;

    /// Measures the model on held-out rows, if there are any. `progress` receives the number of rows done and the
    /// total.
    ///
    /// # Errors
    /// The device fails.
    fn evaluate(
        &self,
        model: &Self::Model,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<TaskReport>> {
        let _ = (model, progress);
        Ok(None)
    }

    /// Rebuilds the report of an earlier evaluation of `n` rows from its logged figures.
    fn recall(&self, n: usize, accuracy: Option<f64>, nll: f64) -> Option<TaskReport> {
        let _ = (n, accuracy, nll);
        None
    }
}
