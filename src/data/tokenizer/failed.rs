//! Failures of the `tokenizers` crate.

use crate::error::Error;

pub fn failed(doing: &str, cause: &tokenizers::Error) -> Error {
    Error::invalid(format!("{doing}: {cause}"), "check that the tokenizer's files belong to the model")
}
