//! Rows with the answers before and after training.

use std::fmt::Write;

use super::chart::colour;
use super::read::ReportedRun;
use super::text::Escaped;
use crate::app::answers::AnsweredRow;

/// Most rows that are shown.
const MOST: usize = 10;

/// The examples of `runs`: those of the first run that has some, with the answers of every run.
pub fn examples(runs: &[ReportedRun]) -> String {
    let mut rows: Vec<&AnsweredRow> = Vec::new();
    for row in runs.iter().flat_map(|run| &run.examples) {
        if rows.len() < MOST && !rows.iter().any(|known| known.prompt == row.prompt) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return "<p class=empty>No examples: the run has no dev rows, or an earlier version made it.</p>"
            .into();
    }
    let mut html = String::from("<div class=examples>");
    for row in rows {
        let prompt = Escaped(&row.prompt);
        let _ = write!(html, "<article><p class=prompt dir=auto>{prompt}</p><dl>");
        let _ = write!(html, "<dt>right</dt><dd dir=auto>{}</dd>", Escaped(row.gold.join(" / ")));
        let answers = runs.iter().enumerate().filter_map(|(index, run)| {
            let answered = run.examples.iter().find(|other| other.prompt == row.prompt)?;
            Some((index, run.chooses(), answered))
        });
        let answers: Vec<_> = answers.collect();
        // Runs of one model answer the same before training.
        let same = answers.iter().all(|(_, _, answered)| answered.before == row.before);
        for (place, (index, chosen, answered)) in answers.into_iter().enumerate() {
            let key = format!("<i class=\"key c{}\"></i>", colour(index));
            let key = if runs.len() > 1 { &key } else { "" };
            if !same || place == 0 {
                let key = if same { "" } else { key };
                let before = shown(answered.before.as_deref(), &row.gold, chosen);
                let _ = write!(html, "<dt>{key}before</dt>{before}");
            }
            let after = shown(answered.after.as_deref(), &row.gold, chosen);
            let _ = write!(html, "<dt>{key}after</dt>{after}");
        }
        html.push_str("</dl></article>");
    }
    html.push_str("</div>");
    html
}

/// An answer with its mark. A generated text that differs from the right one is not marked: it may still be right.
fn shown(answer: Option<&str>, gold: &[String], chosen: bool) -> String {
    let Some(answer) = answer else { return "<dd class=none>not yet</dd>".into() };
    let right = gold.iter().any(|gold| gold.trim() == answer.trim());
    let (class, mark) = match (right, chosen) {
        (true, _) => (" class=right", " <b title=right>✓</b>"),
        (false, true) => (" class=wrong", " <b title=wrong>✗</b>"),
        (false, false) => ("", ""),
    };
    match answer {
        "" => "<dd class=none>(nothing)</dd>".into(),
        _ => format!("<dd{class} dir=auto>{}{mark}</dd>", Escaped(answer)),
    }
}
