//! A chart of curves over the steps of runs, as SVG with labels in HTML: the drawing is stretched to the width of the page,
//! the labels are not.

use std::fmt::Write;

use super::axis::{Axis, Labels};
use super::text::{Escaped, counted, number, percent};

/// Size of the drawing in its own units.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 1000.0;

/// Most points of a curve that are drawn.
const MOST_POINTS: usize = 1200;

/// A curve of a run.
pub struct Series<'a> {
    /// Name of the run.
    pub run: &'a str,
    /// Number of the run, which decides the colour.
    pub index: usize,
    pub stroke: Stroke,
    /// Step and value of each point, in the order of steps.
    pub points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    Line,
    /// The values behind a smoothed line.
    Faint,
    /// A line through points that are marked.
    Dots,
}

pub struct Chart<'a> {
    pub title: &'a str,
    /// Quantity and unit.
    pub note: String,
    pub labels: Labels,
    pub from_zero: bool,
    /// Last step of the axis.
    pub steps: u64,
    pub series: Vec<Series<'a>>,
    /// Run and step of the steps that were not taken.
    pub marks: Vec<(usize, u64)>,
}

impl Chart<'_> {
    /// Whether there is no value to draw.
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// The chart as HTML.
    pub fn html(&self) -> String {
        let x = Axis::steps(self.steps);
        let values = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let y = Axis::around(values.clone(), self.from_zero);
        let outside = values.filter(|value| !(y.start..=y.end).contains(value)).count() as u64;
        let mut html = String::new();
        let (title, note) = (Escaped(self.title), Escaped(&self.note));
        let _ = write!(html, "<figure class=chart><figcaption><h3>{title}</h3><p>{note}");
        if outside > 0 {
            let _ = write!(html, "; {} outside", counted(outside, "value"));
        }
        let _ = write!(
            html,
            "</p></figcaption><div class=plot data-range=\"{} {} {} {}\"{}><div class=y aria-hidden=true>",
            x.start,
            x.end,
            y.start,
            y.end,
            if self.labels == Labels::Percent { " data-percent" } else { "" },
        );
        for tick in y.ticks() {
            let (place, label) = (100.0 * y.place(tick), y.label(tick, self.labels));
            let _ = write!(html, "<span style=\"bottom:{place:.2}%\">{label}</span>");
        }
        let _ = write!(
            html,
            "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=none role=img aria-label=\"{}\">",
            Escaped(self.summary())
        );
        self.draw(&mut html, x, y);
        html.push_str("</svg><div class=x aria-hidden=true>");
        for tick in x.ticks() {
            let (place, label) = (100.0 * x.place(tick), x.label(tick, Labels::Plain));
            let _ = write!(html, "<span style=\"left:{place:.2}%\">{label}</span>");
        }
        html.push_str("</div></div></figure>");
        html
    }

    fn draw(&self, html: &mut String, x: Axis, y: Axis) {
        html.push_str("<path class=grid d=\"");
        for tick in y.ticks() {
            let _ = write!(html, "M0 {:.1}H{WIDTH}", HEIGHT * (1.0 - y.place(tick)));
        }
        html.push_str("\"/>");
        for (run, step) in &self.marks {
            let place = WIDTH * x.place(*step as f64);
            let _ = write!(
                html,
                "<path class=\"mark c{}\" d=\"M{place:.2} 0V{HEIGHT}\"><title>step {step}</title></path>",
                colour(*run)
            );
        }
        // Curves end at the edges of the drawing, dots do not. Faint curves lie behind all others.
        html.push_str("<svg>");
        let mut dots = String::new();
        let (behind, before): (Vec<_>, Vec<_>) =
            self.series.iter().partition(|series| series.stroke == Stroke::Faint);
        for series in behind.into_iter().chain(before) {
            let class = match series.stroke {
                Stroke::Faint => "faint",
                Stroke::Line | Stroke::Dots => "line",
            };
            let (colour, name) = (colour(series.index), Escaped(series.run));
            let _ = write!(html, "<polyline class=\"{class} c{colour}\" data-name=\"{name}\" points=\"");
            let points = thinned(&series.points);
            let place = |point: &(f64, f64)| (WIDTH * x.place(point.0), HEIGHT * (1.0 - y.place(point.1)));
            for (x, y) in points.iter().map(place) {
                let _ = write!(html, "{x:.2},{y:.3} ");
            }
            html.push_str("\"/>");
            if series.stroke == Stroke::Dots || series.points.len() == 1 {
                // A line of no length with round ends: a circle, however the drawing is stretched.
                let _ = write!(dots, "<path class=\"dots c{colour}\" d=\"");
                for (x, y) in points.iter().map(place).filter(|(_, y)| (0.0..=HEIGHT).contains(y)) {
                    let _ = write!(dots, "M{x:.2} {y:.3}h0");
                }
                dots.push_str("\"/>");
            }
        }
        html.push_str("</svg>");
        html.push_str(&dots);
    }

    /// The chart in words, for those who do not see it.
    fn summary(&self) -> String {
        let show = |value: f64| match self.labels {
            Labels::Plain => number(value),
            Labels::Percent => format!("{} %", percent(value)),
        };
        let shown = self.series.iter().filter(|series| series.stroke != Stroke::Faint);
        let described = shown.filter_map(|Series { run, points, .. }| {
            let ((from, first), (to, last)) = (points.first()?, points.last()?);
            Some(format!("{run} from {} at step {from} to {} at step {to}", show(*first), show(*last)))
        });
        format!("{}: {}", self.title, described.collect::<Vec<_>>().join("; "))
    }
}

/// The number of a run's colour in the style sheet.
pub fn colour(run: usize) -> usize {
    run % 6
}

/// The points of a long curve that show its shape: the lowest and the highest of each stretch.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let extremes = points.chunks(stretch).flat_map(|part| {
        let order = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends: Vec<_> =
            [part.iter().min_by(order), part.iter().max_by(order)].into_iter().flatten().copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        ends
    });
    extremes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> String {
        let series = vec![Series { run: "<a>", index: 7, stroke: Stroke::Line, points }];
        let (title, note, labels) = ("Loss", "nats".into(), Labels::Plain);
        Chart { title, note, labels, from_zero: true, steps: 4, series, marks: vec![(0, 1)] }.html()
    }

    #[test]
    fn points_are_drawn_to_scale_and_names_are_escaped() {
        let html = chart(vec![(0.0, 0.0), (2.0, 1.0), (4.0, 2.0)]);
        assert!(html.contains("points=\"0.00,1000.000 500.00,500.000 1000.00,0.000 \""), "{html}");
        assert!(html.contains("class=\"line c1\" data-name=\"&lt;a&gt;\""), "{html}");
        assert!(html.contains("M250.00 0V1000\"><title>step 1</title>"), "{html}");
        assert!(html.contains("Loss: &lt;a&gt; from 0 at step 0 to 2.000 at step 4"), "{html}");
    }

    #[test]
    fn a_long_curve_keeps_its_extremes() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 0.5)).collect();
        (points[1234].1, points[7777].1) = (0.0, 1.0);
        let drawn = thinned(&points);
        assert!(drawn.len() <= MOST_POINTS && drawn.is_sorted_by(|a, b| a.0 < b.0), "{}", drawn.len());
        assert!(drawn.contains(&(1234.0, 0.0)) && drawn.contains(&(7777.0, 1.0)));
    }
}
