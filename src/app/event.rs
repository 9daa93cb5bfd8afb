//! The events of jobs.

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
    /// Progress of work that is counted in tensors, rows, windows or the like.
    Progress {
        work: &'static str,
        done: usize,
        of: usize,
    },
    /// Progress of work that is counted in bytes, such as the download of a file.
    Bytes {
        work: String,
        done: u64,
        of: u64,
    },
    /// The rows of a dataset, `train` or `dev`, are tokenized; `kept` of them are used.
    Rows {
        set: &'static str,
        kept: usize,
        lengths: LengthReport,
    },
    /// Rows of the training data are set aside for evaluation, by the seed.
    SetAside {
        dev: usize,
        of: usize,
        seed: u64,
    },
    /// The first training row as the model reads it, in pieces, with whether each is learned.
    Example(Vec<(String, bool)>),
    /// Training begins.
    Training {
        weights: usize,
        device: String,
        dtype: ComputeType,
        output_dir: PathBuf,
        steps: u64,
        /// Rows per step.
        rows: usize,
        /// The method of training and why it is chosen, in a sentence.
        method: String,
    },
    Train(TrainEvent),
    Quantize(QuantizeEvent),
    /// A tensor of an exported model is written.
    Export(Passed),
    /// A replayed journal ends in an incomplete record.
    TornTail(TornTail),
}
