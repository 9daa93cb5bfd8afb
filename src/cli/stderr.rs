//! Printing on standard error.

use std::io::Write;

use crate::error::Error;

/// Prints text and a line break on standard error. Control characters, which may come from a file, are written as escapes.
/// Errors are ignored, for example if the reader has closed the pipe.
pub fn to_stderr(text: &str) {
    let mut shown = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    let _ = writeln!(std::io::stderr(), "{shown}");
}

/// Prints an error and the user's next step.
pub fn show(error: &Error) {
    to_stderr(&format!("error: {error}"));
    if let Some(help) = error.help() {
        to_stderr(&format!("  help: {help}"));
    }
}
