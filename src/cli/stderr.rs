//! Printing on standard error.

use std::io::Write;

/// Prints a line on standard error. Errors are ignored, for example if the reader has closed the pipe.
pub fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
