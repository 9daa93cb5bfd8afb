//! The evaluations of a run so far.

use super::metrics::LoggedEval;
use super::objective::Objective;
use crate::eval::TaskReport;

/// The evaluations of a run.
#[derive(Default)]
pub struct History {
    pub before: Option<TaskReport>,
    pub after: Option<TaskReport>,
    /// Step and dev NLL of the best evaluation.
    pub best: Option<(u64, f64)>,
}

impl History {
    /// The evaluations that the metrics of the run's earlier part hold.
    pub fn of<O: Objective>(evaluations: &[LoggedEval], objective: &O) -> Self {
        let mut history = Self::default();
        for &LoggedEval { step, eval_nll, eval_accuracy, eval_n } in evaluations {
            if eval_nll < history.best.map_or(f64::INFINITY, |(_, nll)| nll) {
                history.best = Some((step, eval_nll));
            }
            if step == 0 {
                history.before = objective.recall(eval_n, eval_accuracy, eval_nll);
            }
        }
        history
    }
}
