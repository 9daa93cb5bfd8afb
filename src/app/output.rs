//! Checks on the name of a job's output.

use std::path::Path;

use crate::error::{Error, Result};

/// Checks that the output's name ends in `.gguf` exactly if it is a GGUF file. People and the hub recognise GGUF files
/// by this extension.
///
/// # Errors
/// The name of a GGUF file has another extension, or that of a directory has this one.
pub fn check_output(output: &Path, is_gguf: bool) -> Result<()> {
    let named_gguf = ends_in(output, "gguf");
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

/// Checks that the output's name is that of a safetensors file.
///
/// # Errors
/// It has another extension.
pub fn check_safetensors(output: &Path) -> Result<()> {
    if ends_in(output, "safetensors") {
        return Ok(());
    }
    Err(Error::invalid(
        format!(
            "the output {} will be a safetensors file, but its name does not end in .safetensors",
            output.display()
        ),
        format!("name it {}.safetensors", output.display()),
    ))
}

/// Checks that the output's name is that of a page.
///
/// # Errors
/// It has another extension.
pub fn check_html(output: &Path) -> Result<()> {
    if ends_in(output, "html") {
        return Ok(());
    }
    Err(Error::invalid(
        format!("the output {} will be a page, but its name does not end in .html", output.display()),
        format!("name it {}.html", output.display()),
    ))
}

/// Checks that the output's name is not that of a file.
///
/// # Errors
/// It has the extension of a file of weights.
pub fn check_directory(output: &Path) -> Result<()> {
    match ["gguf", "safetensors"].into_iter().find(|extension| ends_in(output, extension)) {
        None => Ok(()),
        Some(extension) => Err(Error::invalid(
            format!("the output {} will be a directory, but its name ends in .{extension}", output.display()),
            "choose a name without this ending: the files inside keep the names that they have in the base model",
        )),
    }
}

fn ends_in(output: &Path, extension: &str) -> bool {
    output.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}
