//! The events of a quantization.

use std::path::PathBuf;

use serde::Serialize;

use crate::checkpoint::Passed;
use crate::quant::OutputError;

/// The events of a quantization, in order.
#[derive(Debug, Clone)]
pub enum QuantizeEvent {
    /// The calibration text has fewer windows of `tokens` tokens than requested.
    FewSamples { text: PathBuf, found: usize, tokens: usize, wanted: usize },
    /// Calibration begins. An earlier run had finished `done` of the blocks.
    Begins { done: usize, of: usize },
    /// A linear is calibrated.
    Linear(LinearReport),
    /// A block is calibrated. `error` is the mean error of its linears.
    Block { done: usize, of: usize, error: OutputError },
    /// A tensor of the result is written.
    Written(Passed),
}

/// The output error of a calibrated linear, compared with the original.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinearReport {
    pub name: String,
    pub error: OutputError,
}
