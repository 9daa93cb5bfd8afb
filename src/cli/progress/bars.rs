//! Progress bars: bars on a terminal, plain lines elsewhere, nothing with `--quiet`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::stderr::to_stderr;

/// A bar that counts units of work.
pub struct Progress {
    bar: ProgressBar,
    /// Name of the work.
    name: String,
    /// Whether to print a line at intervals, because standard error is not a terminal.
    plain: bool,
    last: Instant,
    /// The first position that was set and its time, from which the rate is computed: a resumed run begins late.
    first: Option<(u64, Instant)>,
}

impl Progress {
    const BETWEEN_LINES: Duration = Duration::from_secs(10);

    /// Makes a bar of `total` units of work.
    pub fn new(name: &str, total: u64, quiet: bool) -> Self {
        Self::with_template(name, total, quiet, "{msg} {wide_bar} {pos}/{len} {prefix}")
    }

    fn with_template(name: &str, total: u64, quiet: bool, template: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = match terminal && !quiet {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_message(name.to_string());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let plain = !terminal && !quiet;
        Self { bar, name: name.to_string(), plain, last: Instant::now(), first: None }
    }

    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        let total = self.bar.length().unwrap_or(0);
        let (first, since) = *self.first.get_or_insert_with(|| (done, Instant::now()));
        let pace = pace(done, total, done.saturating_sub(first), since.elapsed());
        self.bar.set_prefix(pace.clone());
        self.line(|| format!("{done}/{total} {pace}").trim_end().to_owned());
    }

    fn line(&mut self, text: impl FnOnce() -> String) {
        if self.plain && self.last.elapsed() > Self::BETWEEN_LINES {
            self.last = Instant::now();
            to_stderr(&format!("{} {}", self.name, text()));
        }
    }

    pub fn set_total(&mut self, total: u64) {
        self.bar.set_length(total);
    }

    pub fn message(&mut self, text: &str) {
        self.bar.set_message(text.to_string());
    }

    /// Prints a line above the bar.
    pub fn note(&self, text: &str) {
        // `is_hidden` is called before `suspend`, which holds the bar's lock.
        if self.plain || !self.bar.is_hidden() {
            self.bar.suspend(|| to_stderr(text));
        }
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// A bar that counts bytes and shows their rate.
pub struct Bytes {
    bar: Progress,
    done: u64,
    /// Bytes that this process processed, from which the rate is computed.
    new: u64,
    started: Instant,
}

impl Bytes {
    pub fn new(name: &str, quiet: bool) -> Self {
        let bar = Progress::with_template(name, 0, quiet, "{msg} {wide_bar} {prefix}");
        Self { bar, done: 0, new: 0, started: Instant::now() }
    }

    /// Adds `bytes` of `total` that are done. `is_new`: this process did them, not an earlier one.
    pub fn pass(&mut self, bytes: u64, total: u64, is_new: bool) {
        self.done += bytes;
        self.new += if is_new { bytes } else { 0 };
        self.bar.bar.set_length(total);
        self.bar.bar.set_position(self.done);
        let text = rate(self.done, total, self.new, self.started.elapsed());
        self.bar.bar.set_prefix(text.clone());
        self.bar.line(|| text);
    }

    pub fn finish(self) {
        self.bar.finish();
    }
}

/// The units per second, or the seconds per unit if they are more, and the time left. `new` units took `elapsed`.
fn pace(done: u64, total: u64, new: u64, elapsed: Duration) -> String {
    let rate = new as f64 / elapsed.as_secs_f64().max(1e-3);
    if new == 0 {
        return String::new();
    }
    let pace = if rate < 1.0 { format!("{:.1} s each", rate.recip()) } else { format!("{rate:.1}/s") };
    format!("{pace}, {} left", time((total.saturating_sub(done)) as f64 / rate))
}

/// A duration in its two largest units.
fn time(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn rate(done: u64, total: u64, new: u64, elapsed: Duration) -> String {
    let rate = new as f64 / elapsed.as_secs_f64().max(1e-3);
    let left = match new {
        0 => String::new(),
        _ => format!(", {} left", time(total.saturating_sub(done) as f64 / rate)),
    };
    format!("{:.2} of {:.2} GB, {:.0} MB/s{left}", done as f64 / 1e9, total as f64 / 1e9, rate / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_and_the_time_left_are_in_units_that_fit() {
        let pace = |done, new, seconds| pace(done, 100, new, Duration::from_secs(seconds));
        assert_eq!(pace(0, 0, 5), "");
        assert_eq!(pace(50, 10, 4), "2.5/s, 20 s left");
        assert_eq!(pace(10, 10, 25), "2.5 s each, 3 min 45 s left");
        assert_eq!(pace(1, 1, 100), "100.0 s each, 2 h 45 min left");
        assert_eq!(pace(100, 10, 4), "2.5/s, 0 s left");
    }

    #[test]
    fn the_rate_counts_only_bytes_of_this_process() {
        let rate = |done, new| rate(done, 4_000_000_000, new, Duration::from_secs(2));
        assert_eq!(rate(1_000_000_000, 0), "1.00 of 4.00 GB, 0 MB/s");
        assert_eq!(rate(2_000_000_000, 1_000_000_000), "2.00 of 4.00 GB, 500 MB/s, 4 s left");
        assert_eq!(rate(4_000_000_000, 3_000_000_000), "4.00 of 4.00 GB, 1500 MB/s, 0 s left");
    }
}
