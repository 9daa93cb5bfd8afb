//! Results on stdout, notes on stderr.

use std::io::Write;

use serde::Serialize;

use super::stderr::to_stderr;
use super::warnings;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy)]
pub struct Console {
    pub json: bool,
    pub quiet: bool,
}

impl Console {
    /// Prints a result: the text, or with --json one JSON object that also has all `warnings`.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        #[derive(Serialize)]
        struct WithWarnings<'a, T> {
            #[serde(flatten)]
            result: &'a T,
            warnings: Vec<String>,
        }
        let line = match self.json {
            true => serde_json::to_string(&WithWarnings { result: value, warnings: warnings::said() })
                .map_err(|e| Error::internal(e.to_string()))?,
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
}
