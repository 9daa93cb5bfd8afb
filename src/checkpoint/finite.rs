//! Weights that are NaN or infinite are refused wherever they are read or copied: a single one makes all results
//! useless.

use std::path::Path;

use crate::error::{Error, Result};

/// # Errors
/// `found` holds the index and value of a NaN or infinity.
pub fn expect(path: &Path, name: &str, found: Option<(usize, f32)>) -> Result<()> {
    found.map_or(Ok(()), |(at, value)| Err(not_finite(path, name, &format!("value {at} is {value}"))))
}

/// The error for a tensor that holds a NaN or infinity; `what` says which.
pub fn not_finite(path: &Path, name: &str, what: &str) -> Error {
    Error::invalid(
        format!("{}: tensor `{name}`: {what}", path.display()),
        "copy the checkpoint again; if the original has such values, too, training or a conversion to f16 overflowed: \
         use an earlier checkpoint, or convert it to bf16 or f32",
    )
}
