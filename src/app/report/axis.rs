//! An axis: the values from its start to its end, at round ticks.

use super::text::{grouped, scientific};

/// Values of fewer points are never taken for outliers.
const FEW: usize = 20;

/// The range of an axis and the distance of its ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    pub start: f64,
    pub end: f64,
    tick: f64,
}

/// The form of an axis's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    Plain,
    /// Shares as per cent.
    Percent,
}

impl Axis {
    /// An axis around `values`, which starts and ends at ticks. A few values that are far from the others may lie outside.
    pub fn around(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let [first, .., last] = values[..] else {
            let value = values.first().copied().unwrap_or_default();
            return Self::of(if from_zero { value.min(0.0) } else { value }, value, 4);
        };
        let (mut low, mut high) = (first, last);
        if values.len() >= FEW {
            let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
            let (least, most) = (at(0.02), at(0.98));
            let margin = 2.0 * (most - least);
            if margin > 0.0 {
                (low, high) = (low.max(least - margin), high.min(most + margin));
            }
        }
        Self::of(if from_zero { low.min(0.0) } else { low }, high, 4)
    }

    /// The axis of the steps from 0 to `last`, which ends there.
    pub fn steps(last: u64) -> Self {
        let end = last.max(1) as f64;
        Self { tick: round_tick(end / 5.0).max(1.0), start: 0.0, end }
    }

    /// The axis from `low` to `high` with about `count` ticks.
    fn of(low: f64, high: f64, count: u32) -> Self {
        let (low, high) = match high - low {
            0.0 if low == 0.0 => (0.0, 1.0),
            0.0 => (low - 0.1 * low.abs(), high + 0.1 * high.abs()),
            _ => (low, high),
        };
        let tick = round_tick((high - low) / f64::from(count));
        // A value at a tick is not moved to the next by a rounding error.
        let (first, last) = ((low / tick + 1e-9).floor(), (high / tick - 1e-9).ceil());
        Self { start: first * tick, end: last * tick, tick }
    }

    /// The place of a value, from 0 at the start to 1 at the end.
    pub fn place(&self, value: f64) -> f64 {
        (value - self.start) / (self.end - self.start)
    }

    /// The ticks from start to end.
    pub fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let Self { start, end, tick } = *self;
        let count = ((end - start) / tick * (1.0 + 1e-9)).floor() as u32;
        (0..=count).map(move |i| {
            // Free of the errors that add up: 0.3 instead of 0.30000000000000004, 0 instead of 1e-17.
            let value = (start / tick + f64::from(i)).round() * tick;
            if value == 0.0 { 0.0 } else { value }
        })
    }

    /// The label of a tick.
    pub fn label(&self, value: f64, labels: Labels) -> String {
        let (value, tick, sign) = match labels {
            Labels::Plain => (value, self.tick, ""),
            Labels::Percent => (100.0 * value, 100.0 * self.tick, " %"),
        };
        let largest = self.start.abs().max(self.end.abs());
        let decimals = (-tick.log10()).ceil().max(0.0) as usize;
        match value {
            0.0 => format!("0{sign}"),
            _ if largest >= 1e6 || tick < 1e-3 => scientific(value, 2),
            _ if largest >= 1e4 && tick >= 1e3 => format!("{}k", value / 1e3),
            _ if decimals == 0 && value >= 1e3 => grouped(value as u64),
            _ => format!("{value:.decimals$}{sign}"),
        }
    }
}

/// The first of 1, 2, 5, 10, 20, … (or 0.5, 0.2, …) that is not less than `least`.
fn round_tick(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let ticks = [1.0, 2.0, 5.0].map(|digit| digit * power);
    ticks.into_iter().find(|tick| *tick >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis, labels: Labels) -> Vec<String> {
        axis.ticks().map(|tick| axis.label(tick, labels)).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        for (values, from_zero, expected) in [
            (&[0.31, 0.69][..], false, &["0.3", "0.4", "0.5", "0.6", "0.7"][..]),
            (&[0.0004, 0.0029], true, &["0", "0.001", "0.002", "0.003"]),
            (&[3e-8, 1e-7], true, &["0", "5e-8", "1e-7"]),
            (&[-3.0, 4.0], false, &["-4", "-2", "0", "2", "4"]),
            (&[900.0, 2900.0], true, &["0", "1,000", "2,000", "3,000"]),
            (&[21_000.0, 39_000.0], true, &["0", "10k", "20k", "30k", "40k"]),
            (&[0.5], false, &["0.45", "0.50", "0.55"]),
            (&[f64::NAN, 0.0, f64::INFINITY], false, &["0", "0.5", "1.0"]),
            (&[], false, &["0", "0.5", "1.0"]),
        ] {
            let axis = Axis::around(values.iter().copied(), from_zero);
            let finite = values.iter().filter(|value| value.is_finite());
            assert!(finite.into_iter().all(|value| (0.0..=1.0).contains(&axis.place(*value))), "{axis:?}");
            let found = labels(axis, Labels::Plain);
            assert_eq!(found, expected, "{values:?}");
        }
        assert_eq!(labels(Axis::steps(60), Labels::Plain), ["0", "20", "40", "60"]);
        assert_eq!(labels(Axis::steps(3), Labels::Plain), ["0", "1", "2", "3"]);
        assert_eq!(labels(Axis::steps(1234), Labels::Plain), ["0", "500", "1,000"]);
        let shares = Axis::around([0.53, 0.88].into_iter(), false);
        assert_eq!(labels(shares, Labels::Percent), ["50 %", "60 %", "70 %", "80 %", "90 %"]);
    }

    #[test]
    fn one_outlier_does_not_flatten_the_rest() {
        let values = (0..100).map(|i| f64::from(i) / 100.0).chain([1e9]);
        let axis = Axis::around(values, false);
        assert!(axis.end < 10.0 && axis.start <= 0.0, "{axis:?}");
    }
}
