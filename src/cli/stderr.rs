//! Standard error.

use std::io::Write;

/// Prints a line, whether or not somebody still reads it.
pub fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
