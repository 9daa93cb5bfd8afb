//! The events of a run, and its outcome.

use super::method::Gradient;
use crate::eval::TaskReport;
use crate::zo::journal::TornTail;

/// The events of a run, in order.
#[derive(Debug, Clone)]
pub enum TrainEvent {
    /// The run continues an earlier one.
    Resumed {
        /// Steps in the journal.
        done: u64,
        /// Steps since the last snapshot, which are replayed or taken again.
        repeated: u64,
        torn: Option<TornTail>,
    },
    Step {
        /// Number of the step, from 1.
        step: u64,
        loss: f64,
        gradient: Gradient,
        lr: f64,
        tokens_per_second: f64,
        skipped: bool,
    },
    /// Progress of an evaluation, in rows.
    Evaluating {
        step: u64,
        done: usize,
        of: usize,
    },
    Evaluated {
        step: u64,
        report: TaskReport,
        best: bool,
    },
    Saved {
        step: u64,
    },
    /// The loss of a step was not finite or ran away: the scales are those after step `to` again, and the learning rate
    /// is halved.
    WentBack {
        step: u64,
        loss: f64,
        to: u64,
    },
}

/// The outcome of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub steps: u64,
    /// Evaluation on the dev set before the first step.
    pub before: Option<TaskReport>,
    /// Evaluation on the dev set with the f32 scales of the last step.
    pub after: Option<TaskReport>,
    /// Step with the lowest dev NLL.
    pub best_step: Option<u64>,
    pub train_seconds: f64,
}
