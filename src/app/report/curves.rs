//! The metrics of runs as charts.

use std::fmt::Write;

use super::axis::Labels;
use super::chart::{Chart, Series, Stroke, colour};
use super::read::{ReportedRun, logged};
use super::text::{Escaped, counted};
use crate::train::{LoggedLine, MethodKind};

/// A value of a line of metrics.
type Value = fn(&LoggedLine) -> Option<f64>;

/// The charts of `runs`, and what they leave out.
pub fn charts(runs: &[ReportedRun]) -> String {
    let loss = Chart { marks: skipped(runs), ..chart(runs, "Training loss", "nats", |line| line.loss) };
    let smooth = |chart| smoothed(chart, runs.len());
    let norm = chart(runs, "Gradient norm", "", |line| line.grad_norm);
    let slope = chart(runs, "Projected gradient", "slope", |line| line.projected_grad);
    let speed = chart(runs, "Speed", "tokens per second", |line| line.tokens_per_second);
    let accuracy = dots(chart(runs, "Dev accuracy", "share of rows", |line| line.eval_accuracy));
    let charts = [
        smooth(loss),
        dots(chart(runs, "Dev loss", "nats", |line| line.eval_nll)),
        Chart { labels: Labels::Percent, ..accuracy },
        dots(chart(runs, "Dev score", "the higher the better", |line| logged(line)?.other_score())),
        Chart { from_zero: true, ..chart(runs, "Learning rate", "", |line| line.lr) },
        smooth(Chart { from_zero: true, ..norm }),
        smooth(slope),
        smooth(Chart { from_zero: true, ..speed }),
    ];
    let mut html = String::from("<div class=charts>");
    charts.iter().filter(|chart| !chart.is_empty()).for_each(|chart| html.push_str(&chart.html()));
    html.push_str("</div>");
    for (index, run) in runs.iter().enumerate() {
        html.push_str(&not_taken(run, index, runs.len()));
    }
    html
}

fn chart<'a>(runs: &'a [ReportedRun], title: &'a str, note: &str, value: Value) -> Chart<'a> {
    let series = runs.iter().enumerate().map(|(index, run)| {
        let points = run.metrics.iter().filter_map(|line| Some((line.step as f64, value(line)?)));
        let mut points: Vec<_> = points.filter(|(_, value)| value.is_finite()).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { run: &run.name, index, stroke: Stroke::Line, points }
    });
    let (labels, from_zero) = (Labels::Plain, false);
    let steps = runs.iter().map(ReportedRun::steps).max().unwrap_or(0);
    let note = note.to_string();
    Chart { title, note, labels, from_zero, steps, series: series.collect(), marks: Vec::new() }
}

fn dots(mut chart: Chart<'_>) -> Chart<'_> {
    chart.series.iter_mut().for_each(|series| series.stroke = Stroke::Dots);
    chart
}

/// Puts a smoothed line before each curve. Of several runs, only the smoothed lines are drawn.
fn smoothed(mut chart: Chart<'_>, runs: usize) -> Chart<'_> {
    let lines = chart.series.iter().map(|series| Series { points: running_mean(&series.points), ..*series });
    let lines: Vec<_> = lines.collect();
    match runs {
        1 => chart.series.iter_mut().for_each(|series| series.stroke = Stroke::Faint),
        _ => chart.series.clear(),
    }
    chart.series.extend(lines);
    chart.note.push_str(if chart.note.is_empty() { "running mean" } else { ", running mean" });
    chart
}

/// The exponential running mean over about a tenth of the points, without the pull of its start towards zero.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 12.0).max(4.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mean = |(step, value): &(f64, f64)| {
        (sum, weight) = (keep * sum + value, keep * weight + 1.0);
        (*step, sum / weight)
    };
    points.iter().map(mean).collect()
}

fn skipped(runs: &[ReportedRun]) -> Vec<(usize, u64)> {
    let of = |(index, run): (usize, &ReportedRun)| {
        run.step_lines().filter(|line| line.skipped).map(|line| (index, line.step)).collect::<Vec<_>>()
    };
    runs.iter().enumerate().flat_map(of).collect()
}

/// The steps of a run that were skipped, and what followed, in words.
fn not_taken(run: &ReportedRun, index: usize, runs: usize) -> String {
    const MOST: usize = 20;
    let lines: Vec<&LoggedLine> = run.step_lines().filter(|line| line.skipped).collect();
    if lines.is_empty() {
        return String::new();
    }
    let what = match run.config.train.method {
        MethodKind::Exact => {
            "after which the run went back to its last snapshot and halved the learning rate"
        }
        MethodKind::Zo => "because a loss was not finite",
    };
    let mut steps: Vec<String> = lines.iter().take(MOST).map(|line| line.step.to_string()).collect();
    if lines.len() > MOST {
        steps.push("…".into());
    }
    let mut html = String::from("<p class=skipped>");
    if runs > 1 {
        let _ = write!(html, "<i class=\"key c{}\"></i>{}: ", colour(index), Escaped(&run.name));
    }
    let count = counted(lines.len() as u64, "step");
    let _ = write!(html, "<i class=markkey></i>{count} skipped, {what}: {}</p>", steps.join(", "));
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_mean_of_a_constant_is_the_constant() {
        let constant: Vec<_> = (0..50).map(|step| (f64::from(step), 0.7)).collect();
        assert!(running_mean(&constant).iter().all(|(_, value)| (value - 0.7).abs() < 1e-12));
        let jump: Vec<_> = (0..60).map(|step| (f64::from(step), f64::from(step / 30))).collect();
        let mean = running_mean(&jump);
        assert!(mean[29].1 == 0.0 && (0.19..0.21).contains(&mean[30].1) && mean[59].1 > 0.99, "{mean:?}");
    }
}
