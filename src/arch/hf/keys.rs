//! Reading the keys of a family's config class, and the errors of values that are not supported.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::loose;
use crate::arch::Family;
use crate::error::{Error, Result};

/// Reads the keys of a family's config class.
pub fn read<T: DeserializeOwned>(path: &Path, json: &Value, family: Family) -> Result<T> {
    loose::read(json)
        .map_err(|e| Error::damaged(path, format!("not the configuration of a {family:?} model: {e}")))
}

/// The head dimension where no key gives it: the hidden size divided by the number of heads.
pub fn divided_head_dim(path: &Path, hidden: usize, heads: usize) -> Result<usize> {
    match heads {
        0 => Err(Error::damaged(path, "num_attention_heads is 0")),
        _ if !hidden.is_multiple_of(heads) => {
            Err(Error::damaged(path, format!("hidden_size {hidden} is not a multiple of {heads} heads")))
        }
        _ => Ok(hidden / heads),
    }
}

pub fn unsupported(path: &Path, what: impl std::fmt::Display, works: &str) -> Error {
    Error::unsupported(format!("{}: {what} is not supported", path.display()), format!("works: {works}"))
}
