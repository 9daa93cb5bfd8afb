//! Checks on the name of a job's output.

use std::path::Path;

use crate::error::{Error, Result};

/// Checks that the output's name ends in `.gguf` exactly if it is a GGUF file. People and the hub recognise GGUF files
/// by this extension.
///
/// # Errors
/// The name of a GGUF file has another extension, or that of a directory has this one.
pub fn check_output(output: &Path, is_gguf: bool) -> Result<()> {
    let named_gguf = output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    match (is_gguf, named_gguf) {
        (true, false) => Err(Error::invalid(
            format!(
                "the output {} will be a GGUF file, but its name does not end in .gguf",
                output.display()
            ),
            format!("name it {}.gguf", output.display()),
        )),
        (false, true) => Err(Error::invalid(
            format!("the output {} will be a directory, but its name ends in .gguf", output.display()),
            "choose --format gguf, or a name that does not end in .gguf",
        )),
        _ => Ok(()),
    }
}
