//! The events of a quantization.

use std::path::PathBuf;

use serde::Serialize;

use crate::checkpoint::Passed;
use crate::quant::OutputError;

/// The events of a quantization, in order.
#[derive(Debug, Clone)]
pub enum QuantizeEvent {
    /// The calibration text has fewer windows than were asked for.
    FewSamples { text: PathBuf, found: usize, tokens: usize, wanted: usize },
    /// Calibration begins; an earlier run had done this many of `of` blocks.
    Begins { done: usize, of: usize },
    /// A linear is calibrated.
    Linear(LinearReport),
    /// A block is calibrated; `error` is the mean of its linears'.
    Block { done: usize, of: usize, error: OutputError },
    /// A tensor of the result is written.
    Written(Passed),
}

/// How well a calibrated linear gives the outputs of the original.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinearReport {
    pub name: String,
    pub error: OutputError,
}
