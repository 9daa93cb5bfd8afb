//! Reports as text.

use crate::eval::TaskReport;

/// Describes a report in one line.
pub fn describe(report: &TaskReport) -> String {
    let accuracy =
        report.accuracy.map(|a| format!("accuracy {a:.4} ± {:.4}, ", report.stderr.unwrap_or(0.0)));
    let f1 = report.f1.map(|f1| format!("F1 {f1:.4}, "));
    let score = report.score.map(|score| format!("score {score:.4}, "));
    format!(
        "{}{}{}NLL {:.4} on {} rows",
        score.unwrap_or_default(),
        accuracy.unwrap_or_default(),
        f1.unwrap_or_default(),
        report.nll,
        report.n
    )
}
