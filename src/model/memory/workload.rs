//! The passes of a run whose memory is planned.

use crate::arch::TensorKinds;
use crate::data::Load;
use crate::model::BackwardPass;

/// The widest passes of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Workload {
    pub train: Load,
    /// The backward pass of a training step; `None` if it has forward passes alone.
    pub backward: Option<BackwardWork>,
    pub evaluation: Load,
    /// The answers that are generated before training and after it, or in its steps.
    pub generation: GenerationWork,
    /// Whether the weights are read from files, whose pages are in memory while a tensor is loaded.
    pub reads_files: bool,
}

/// Answers that are generated together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GenerationWork {
    /// Rows of the caches of keys and values.
    pub cache_rows: usize,
    /// The widest pass.
    pub pass: Load,
}

impl GenerationWork {
    /// The larger of each number.
    pub fn max(self, other: Self) -> Self {
        Self { cache_rows: self.cache_rows.max(other.cache_rows), pass: self.pass.max(other.pass) }
    }
}

/// The backward pass of a training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackwardWork {
    pub pass: BackwardPass,
    /// Kinds of tensors that are trained beside the scales.
    pub tensors: TensorKinds,
    /// Values of optimizer state for each parameter, 2 bytes each.
    pub moments: usize,
    /// Whether gradients are summed over several passes of a step.
    pub accumulates: bool,
}
