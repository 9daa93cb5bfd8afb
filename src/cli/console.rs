//! Prints results on stdout and notes on stderr.

use std::io::Write;

use serde::Serialize;

use super::stderr::to_stderr;
use super::warnings;
use crate::error::{Error, Result};

/// The output of the program.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    pub json: bool,
    pub quiet: bool,
}

impl Console {
    /// Prints a result: as text, or with `--json` as one JSON object that also contains all `warnings`.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        #[derive(Serialize)]
        struct WithWarnings<'a, T> {
            #[serde(flatten)]
            result: &'a T,
            warnings: Vec<String>,
        }
        let line = match self.json {
            true => serde_json::to_string(&WithWarnings { result: value, warnings: warnings::issued() })
                .map_err(|e| Error::internal(e.to_string()))?,
            false => text(),
        };
        self.print(&format!("{line}\n"))
    }

    /// Prints text on stdout as it is, without buffering.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(Error::io("standard output", "writing"))
    }

    /// Prints a line on stderr, unless `--quiet` is given.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }
}
