//! The events of long work.

use std::path::PathBuf;

use crate::checkpoint::Passed;
use crate::data::LengthReport;
use crate::device::ComputeType;
use crate::quantize::QuantizeEvent;
use crate::train::TrainEvent;
use crate::zo::journal::TornTail;

/// Receives the events of a job.
pub type OnEvent<'a> = &'a mut dyn FnMut(Event);

/// An event of a job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Bytes of a file fetched from the hub.
    Download {
        file: String,
        done: u64,
        of: u64,
    },
    /// The rows of a dataset, `train` or `dev`, are tokenized; `kept` of them are used.
    Rows {
        set: &'static str,
        kept: usize,
        lengths: LengthReport,
    },
    /// Blocks of the model that are on the device.
    Load {
        done: usize,
        of: usize,
    },
    /// Training begins.
    Training {
        weights: usize,
        device: String,
        dtype: ComputeType,
        output_dir: PathBuf,
        steps: u64,
    },
    Train(TrainEvent),
    Quantize(QuantizeEvent),
    /// A tensor of an exported model is written.
    Export(Passed),
    /// Rows, windows or sequences that are measured.
    Evaluate {
        unit: &'static str,
        done: usize,
        of: usize,
    },
    /// Weights that are replayed.
    Replay {
        done: usize,
        of: usize,
    },
    /// A replayed journal ends in a record that was not finished.
    TornTail(TornTail),
}
