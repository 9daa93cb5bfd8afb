//! JSON files.

use std::path::Path;

use serde_json::Value;

use super::staging::write_bytes;
use crate::error::{Error, Result};

/// Reads a JSON file.
///
/// # Errors
/// The file is missing or not JSON.
pub fn read_json(path: &Path) -> Result<Value> {
    parse_json(path, &std::fs::read(path).map_err(Error::io(path, "reading"))?)
}

/// Parses the bytes of the file at `path`.
pub fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::damaged(path, format!("not valid JSON: {e}")))
}

/// Writes and syncs a JSON file.
pub fn write_json(path: &Path, json: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(json)
        .map_err(|e| Error::damaged(path, format!("cannot be written: {e}")))?;
    text.push(b'\n');
    write_bytes(path, &text)
}
