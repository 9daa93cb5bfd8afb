//! Names of what a job writes.

use std::path::Path;

use crate::error::{Error, Result};

/// People and the hub tell a GGUF file by its ending.
///
/// # Errors
/// A GGUF file without it, or a directory with it.
pub fn check_output(output: &Path, is_gguf: bool) -> Result<()> {
    let ends = output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    match (is_gguf, ends) {
        (true, false) => Err(Error::invalid(
            format!("{} is to be a GGUF file", output.display()),
            format!("name it {}.gguf", output.display()),
        )),
        (false, true) => Err(Error::invalid(
            format!("{} is to be a directory", output.display()),
            "choose --format gguf, or a name that does not end in .gguf",
        )),
        _ => Ok(()),
    }
}
