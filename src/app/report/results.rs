//! The evaluations of runs as tables.

use std::fmt::Write;

use super::chart::colour;
use super::read::{ReportedRun, Stage, Stages};
use super::text::{Escaped, bytes, counted, grouped, number, percent, seconds};

const NOTHING: &str = "<td class=none>–</td>";

/// The figures of one run that matter most, as tiles.
pub fn tiles(run: &ReportedRun) -> String {
    let stages = run.stages();
    let mut html = String::from("<div class=tiles>");
    let mut tile = |name: &str, value: String, note: String| {
        let _ = write!(
            html,
            "<div class=tile><p class=name>{name}</p><p class=value>{value}</p><p class=note>{note}</p></div>"
        );
    };
    let ends = stages.before.zip(stages.reached());
    let change = |from: String, to: String| format!("<span class=from>{from}</span> → {to}");
    if let Some((before, reached)) = ends
        && let Some((from, to)) = before.accuracy.zip(reached.accuracy)
    {
        let sign = if to < from { "−" } else { "+" };
        let points = percent((to - from).abs());
        let points = format!("{sign}{points} points on {}", counted(reached.n as u64, "dev row"));
        tile("Accuracy", change(percent(from), format!("{} %", percent(to))), points);
    }
    if let Some((before, reached)) = ends {
        let note = format!("nats; best {}", stages.best.map_or("–".into(), at_step));
        tile("Dev loss", change(number(before.nll), number(reached.nll)), note);
        if let Some((from, to)) = before.other_score().zip(reached.other_score()) {
            let note = format!("mean of {}", counted(reached.n as u64, "dev row"));
            tile("Score", change(number(from), number(to)), note);
        }
    }
    let done = run.steps();
    let time = Some(run.record.train_seconds).filter(|seconds| *seconds > 0.0);
    let of =
        if run.finished { String::new() } else { format!(" of {}", grouped(run.config.train.max_steps)) };
    tile(
        "Steps",
        format!("{}{of}", grouped(done)),
        time.map_or("time not recorded".into(), |time| format!("in {}", seconds(time))),
    );
    if let Some(speed) = run.tokens_per_second() {
        tile("Speed", grouped(speed.round() as u64), "tokens per second, median".into());
    }
    if let Some(peak) = run.record.peak_bytes {
        let card = run.record.device_bytes.map(|card| format!("; {} on the device", bytes(card)));
        tile("Memory", bytes(peak), format!("peak on the host{}", card.unwrap_or_default()));
    }
    html.push_str("</div>");
    html
}

fn at_step(best: Stage) -> String {
    format!("{} after step {}", number(best.nll), grouped(best.step))
}

/// The evaluations of one run: one in a row.
pub fn of_one(run: &ReportedRun) -> String {
    let Stages { before, best, after, last } = run.stages();
    let rows = [
        ("Before", "the base model", before),
        ("Best", "kept as best/", best),
        (
            if run.finished { "After" } else { "So far" },
            "scales of the last step, not yet rounded to the file’s type",
            after,
        ),
        ("Final", "final/ as read back from the disk", last),
    ];
    let found = || rows.iter().filter_map(|(_, _, stage)| *stage);
    if found().next().is_none() {
        return "<p class=empty>No evaluation: the run has no dev rows, or has not come so far.</p>".into();
    }
    let (scored, f1) = (found().any(|s| s.accuracy.is_some()), found().any(|s| s.f1.is_some()));
    let has_score = found().any(|s| s.other_score().is_some());
    let mut html = String::from("<div class=scroll><table><thead><tr><th></th><th>Step</th><th>Rows</th>");
    html.push_str(if scored { "<th>Accuracy, %</th>" } else { "" });
    html.push_str(if has_score { "<th>Score</th>" } else { "" });
    html.push_str(if f1 { "<th>F1</th>" } else { "" });
    html.push_str("<th>Loss (NLL)</th><th class=words></th></tr></thead><tbody>");
    for (name, note, stage) in rows {
        let Some(stage) = stage else { continue };
        let _ = write!(html, "<tr><th>{name}</th><td>{}</td>", grouped(stage.step));
        let _ = write!(html, "<td>{}</td>", grouped(stage.n as u64));
        if scored {
            html.push_str(&accuracy(stage));
        }
        if has_score {
            html.push_str(&stage.other_score().map_or(NOTHING.into(), |s| format!("<td>{}</td>", number(s))));
        }
        if f1 {
            html.push_str(&stage.f1.map_or(NOTHING.into(), |f1| format!("<td>{f1:.4}</td>")));
        }
        let _ = write!(html, "<td>{:.4}</td><td class=words>{note}</td></tr>", stage.nll);
    }
    html.push_str("</tbody></table></div>");
    html
}

fn accuracy(stage: Stage) -> String {
    let Some(accuracy) = stage.accuracy else { return NOTHING.into() };
    let error = stage.stderr.map(|error| format!(" <span class=error>± {}</span>", percent(error)));
    format!("<td>{}{}</td>", percent(accuracy), error.unwrap_or_default())
}

/// The evaluations, speed and memory of several runs: one run in a row.
pub fn of_several(runs: &[ReportedRun]) -> String {
    let all: Vec<Stages> = runs.iter().map(ReportedRun::stages).collect();
    let found = || all.iter().flat_map(|s| [s.before, s.best, s.after, s.last]).flatten();
    let (scored, f1) = (found().any(|s| s.accuracy.is_some()), found().any(|s| s.f1.is_some()));
    let has_score = found().any(|s| s.other_score().is_some());
    let mut html = String::from("<div class=scroll><table><thead><tr><th rowspan=2>Run</th>");
    html.push_str(if scored { "<th colspan=3 class=group>Accuracy, %</th>" } else { "" });
    html.push_str(if has_score { "<th colspan=3 class=group>Score</th>" } else { "" });
    html.push_str(if f1 { "<th rowspan=2>F1</th>" } else { "" });
    html.push_str("<th colspan=4 class=group>Dev loss (NLL)</th><th rowspan=2>Best step</th>");
    html.push_str("<th rowspan=2>Steps</th><th rowspan=2>Time</th><th rowspan=2>Tokens/s</th>");
    html.push_str("<th rowspan=2>Memory</th></tr><tr>");
    for _ in 0..usize::from(scored) + usize::from(has_score) {
        html.push_str("<th>before</th><th>after</th><th>final</th>");
    }
    html.push_str("<th>before</th><th>best</th><th>after</th><th>final</th></tr></thead><tbody>");
    for (index, (run, stages)) in runs.iter().zip(&all).enumerate() {
        let Stages { before, best, after, last } = *stages;
        let (colour, name) = (colour(index), Escaped(&run.name));
        let _ = write!(html, "<tr><th><i class=\"key c{colour}\"></i>{name}</th>");
        if scored {
            for stage in [before, after, last] {
                html.push_str(&stage.map_or(NOTHING.into(), accuracy));
            }
        }
        if has_score {
            for stage in [before, after, last] {
                let score = stage.and_then(|stage| stage.other_score());
                html.push_str(&score.map_or(NOTHING.into(), |s| format!("<td>{}</td>", number(s))));
            }
        }
        let cell = |text: Option<String>| text.map_or(NOTHING.into(), |text| format!("<td>{text}</td>"));
        if f1 {
            html.push_str(&cell(last.and_then(|stage| stage.f1).map(|f1| format!("{f1:.4}"))));
        }
        for stage in [before, best, after, last] {
            html.push_str(&cell(stage.map(|stage| format!("{:.4}", stage.nll))));
        }
        html.push_str(&cell(best.map(|stage| grouped(stage.step))));
        let of = if run.finished { "" } else { &format!(" of {}", grouped(run.config.train.max_steps)) };
        let _ = write!(html, "<td>{}{of}</td>", grouped(run.steps()));
        html.push_str(&cell(Some(run.record.train_seconds).filter(|s| *s > 0.0).map(seconds)));
        html.push_str(&cell(run.tokens_per_second().map(|speed| grouped(speed.round() as u64))));
        html.push_str(&cell(run.record.peak_bytes.map(bytes)));
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}
