//! Settings that several schemes have in their configs.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::arch::hf::loose;
use crate::error::{Error, Result};

/// # Errors
/// A key that is missing or is of another type; `scheme` says whose config it is.
pub fn read_settings<T: DeserializeOwned>(path: &Path, json: &Value, scheme: &str) -> Result<T> {
    loose::read(json).map_err(|e| Error::damaged(path, format!("{scheme} quantization config: {e}")))
}

/// `group_size` of a config, where −1 is a whole row.
pub fn group_size(path: &Path, stored: i64) -> Result<Option<usize>> {
    match stored {
        -1 => Ok(None),
        size if (1..=i64::from(i32::MAX)).contains(&size) => Ok(Some(size as usize)),
        size => Err(Error::damaged(path, format!("group_size {size}: expected −1 or more than 0"))),
    }
}

/// `group_size` as a config says it.
pub fn group_size_json(size: Option<usize>) -> Value {
    size.map_or(json!(-1), |size| json!(size))
}

/// Groups in a row.
///
/// # Errors
/// Groups that do not fill the row.
pub fn whole_groups(in_features: usize, size: usize) -> Result<usize, String> {
    match in_features.is_multiple_of(size.max(1)) {
        true => Ok(in_features / size.max(1)),
        false => Err(format!("groups of {size} do not fill rows of {in_features}")),
    }
}
