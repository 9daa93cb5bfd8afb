//! What the user sees. Results go to stdout, everything else to stderr; bars on a terminal, plain lines
//! otherwise, nothing with --quiet.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy)]
pub struct Console {
    pub json: bool,
    pub quiet: bool,
}

impl Console {
    /// A result: one JSON object with --json, else the text.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let line = match self.json {
            true => serde_json::to_string(value).map_err(|e| Error::invalid(e.to_string(), ""))?,
            false => text(),
        };
        self.print(&format!("{line}\n"))
    }

    /// Text to stdout as it is, at once.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(Error::io("standard output", "writing"))
    }

    pub fn note(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// Progress through `total` units of work.
    pub fn progress(&self, what: &str, total: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let target = match terminal && !self.quiet {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
        let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what.to_string());
        if let Ok(style) = style {
            bar.set_style(style);
        }
        let plain = !terminal && !self.quiet;
        Progress { bar, what: what.to_string(), plain, last: Instant::now() }
    }
}

pub struct Progress {
    bar: ProgressBar,
    what: String,
    /// No terminal: a line now and then.
    plain: bool,
    last: Instant,
}

impl Progress {
    const BETWEEN_LINES: Duration = Duration::from_secs(10);

    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.plain && self.last.elapsed() > Self::BETWEEN_LINES {
            self.last = Instant::now();
            to_stderr(&format!("{} {done}/{}", self.what, self.bar.length().unwrap_or(0)));
        }
    }

    pub fn set_total(&mut self, total: u64) {
        self.bar.set_length(total);
    }

    pub fn message(&mut self, text: &str) {
        self.bar.set_message(text.to_string());
    }

    /// A line that stays, above the bar.
    pub fn note(&self, text: &str) {
        // Asked before `suspend`, which holds the bar's lock.
        if self.plain || !self.bar.is_hidden() {
            self.bar.suspend(|| to_stderr(text));
        }
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// A line, whether or not somebody still reads it.
fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
