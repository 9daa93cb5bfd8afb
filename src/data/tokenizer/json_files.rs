//! The JSON files of a tokenizer's directory.

use std::path::Path;

use serde_json::Value;

use crate::data::row::describe;
use crate::error::{Error, Result};

/// Advice for a directory whose tokenizer only transformers can read.
pub fn convert(dir: &Path) -> String {
    format!(
        "convert it once with transformers: python -c \"from transformers import AutoTokenizer; \
         AutoTokenizer.from_pretrained('{0}').save_pretrained('{0}')\"",
        dir.display()
    )
}

/// The object in a JSON file; an empty one if there is no such file.
///
/// # Errors
/// A file that cannot be read or is not a JSON object.
pub fn read_json(path: &Path) -> Result<Value> {
    if !path.is_file() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|e| Error::damaged(path, format!("not JSON: {e}")))?;
    match value {
        Value::Object(_) => Ok(value),
        other => Err(Error::damaged(path, format!("expected a JSON object, got {}", describe(&other)))),
    }
}

/// A flag as Python reads it: false, 0, null and empty values are false, all else is true.
pub fn flag(config: &Value, key: &str, default: bool) -> bool {
    match config.get(key) {
        None => default,
        Some(Value::Null) => false,
        Some(Value::Bool(set)) => *set,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
    }
}

/// The text of a token, which is written as a string or as `{"content": …}`.
pub fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// A special token with its id, by its key. `tokenizer_config.json` decides if it has the key, even with null.
pub fn special_token(
    config: &Value,
    map: &Value,
    key: &str,
    tokenizer: &tokenizers::Tokenizer,
) -> Option<(String, u32)> {
    let token = content(config.get(key).unwrap_or(&map[key]))?;
    Some((token.to_string(), tokenizer.token_to_id(token)?))
}
