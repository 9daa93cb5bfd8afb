//! The goal of training: a loss over batches of rows, as a function of scales.

use crate::data::LossSum;
use crate::error::Result;
use crate::eval::TaskReport;
use crate::model::Scales;
use crate::zo::direction::Signs;

/// A loss that scales can be trained for. The loop sees no more of data and model than this.
pub trait Objective {
    /// Has the scales that the loss depends on.
    type Model: Scales + ?Sized;
    type Batch;

    /// The next `size` rows of the run, of which `cursor` were taken before.
    fn batch(&mut self, cursor: u64, size: usize) -> Self::Batch;

    /// Tokens that one pass over the batch reads.
    fn tokens(&self, batch: &Self::Batch) -> usize;

    /// The batch's loss, once for each part of `signs`, as sums that losses of other rows can be added to.
    ///
    /// # Errors
    /// The device fails.
    fn losses(&self, model: &Self::Model, batch: &Self::Batch, signs: Signs) -> Result<Vec<LossSum>>;

    /// Measures the model on held-out rows, if there are any. `progress` gets the rows done, and of how many.
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

    /// The report of an earlier evaluation of `n` rows, from what was kept of it.
    fn recall(&self, n: usize, accuracy: Option<f64>, nll: f64) -> Option<TaskReport> {
        let _ = (n, accuracy, nll);
        None
    }
}
