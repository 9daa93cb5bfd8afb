//! The evaluations of a run so far.

use super::metrics::LoggedEval;
use super::objective::Objective;
use crate::eval::TaskReport;

/// The evaluations of a run.
#[derive(Default)]
pub struct History {
    pub before: Option<TaskReport>,
    pub after: Option<TaskReport>,
    /// Step of the best evaluation, and its figure (see [`TaskReport::objective`]).
    pub best: Option<(u64, f64)>,
}

impl History {
    /// The evaluations that the metrics of the run's earlier part hold.
    pub fn of<O: Objective>(evaluations: &[LoggedEval], objective: &O) -> Self {
        let mut history = Self::default();
        for &LoggedEval { step, eval_nll, eval_accuracy, eval_score, eval_n } in evaluations {
            let value = eval_score.map_or(eval_nll, |score| -score);
            if value < history.best.map_or(f64::INFINITY, |(_, best)| best) {
                history.best = Some((step, value));
            }
            if step == 0 {
                let report = objective.recall(eval_n, eval_accuracy, eval_nll);
                history.before = report.map(|report| TaskReport { score: eval_score, ..report });
            }
        }
        history
    }
}
