//! The settings of a backward pass, the gradients that it gives, and the trait of their receiver.

use clap::ValueEnum;
use serde::Serialize;

use super::scales::Scales;
use crate::device::Device;
use crate::error::Result;
use crate::kernels::HostFloats;
use crate::zo::direction::Move;

/// The form in which the scales of a weight are trained. All of them end up in the scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleForm {
    /// Every scale by itself: the logarithm of its magnitude.
    Scales,
    /// One factor for each row: the logarithm.
    Rows,
    /// One factor for each row, and one for each group of columns: the logarithms.
    Factors,
}

/// The place where the inputs of the blocks are kept until their backward passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum BlockInputs {
    /// The device's memory.
    #[default]
    #[value(name = "device")]
    OnDevice,
    /// Host memory; the device holds one or two inputs at a time.
    #[value(name = "host")]
    OnHost,
}

impl BlockInputs {
    /// The places that a device leaves a choice of, the fastest first.
    pub fn choices(device: &Device) -> &'static [Self] {
        if device.is_host() { &[Self::OnDevice] } else { &[Self::OnDevice, Self::OnHost] }
    }
}

/// A backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackwardPass {
    /// Number of decoder blocks, counted from the last, whose scales get a gradient.
    pub tail_blocks: usize,
    pub form: ScaleForm,
    pub inputs: BlockInputs,
    /// Displacement of the scales of the blocks before the tail.
    pub body: Option<Move>,
}

/// The gradient of one weight's scales, or of a tensor that is trained beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleGradient {
    /// Parameter id: the weight's position in [`Scales::trained`]; the ids of [`Scales::tensors`] follow.
    pub parameter: u32,
    /// For a weight, the derivatives with respect to the logarithms: `[out_features · groups]` in the form
    /// [`ScaleForm::Scales`], `[out_features]` in [`ScaleForm::Rows`]; in [`ScaleForm::Factors`] those of the rows come
    /// first, then those of the groups. For a tensor, the derivatives with respect to its values; those of minima are the
    /// minima that a file states, which are not divided by their scales.
    pub values: HostFloats,
}

/// Receives the gradients of a backward pass, block by block from the last to the first.
pub trait GradientSink {
    /// The derivatives of the loss with respect to the log-probabilities of the targets; `None` ends the pass, because
    /// the loss is not finite or has run away.
    ///
    /// # Errors
    /// The targets are not those that the sink knows.
    fn pull(&mut self, log_probs: &[f32]) -> Result<Option<Vec<f32>>>;

    /// Takes the gradients of one block. The block is done with, so that its scales may be updated at once.
    ///
    /// # Errors
    /// The device fails.
    fn block(&mut self, gradients: Vec<ScaleGradient>, scales: &mut dyn Scales) -> Result<()>;
}
