//! The objective of training: a loss over batches of rows, as a function of the scales.

use crate::data::LossSum;
use crate::error::Result;
use crate::eval::TaskReport;
use crate::model::{BackwardPass, ScaleGradient, Scales};
use crate::zo::direction::Signs;

/// Receives the loss of a batch and its gradients.
pub trait LossGradients {
    /// Takes the loss, and decides whether its gradients are computed.
    fn goes_on(&mut self, loss: LossSum) -> bool;

    /// Takes the gradients of one block, and may move its scales.
    ///
    /// # Errors
    /// The device fails.
    fn block(&mut self, gradients: Vec<ScaleGradient>, scales: &mut dyn Scales) -> Result<()>;
}

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

    /// The weight of the batch's loss, by which its sum is divided: the number of examples or tokens in it.
    fn weight(&self, batch: &Self::Batch) -> f64;

    /// Computes the batch's loss and, if `sink` goes on, the gradients of its sum divided by `weight`.
    ///
    /// # Errors
    /// The objective has no gradient; the device or `sink` fails.
    fn gradient(
        &self,
        model: &mut Self::Model,
        batch: &Self::Batch,
        backward: BackwardPass,
        weight: f64,
        sink: &mut dyn LossGradients,
    ) -> Result<()>;

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
