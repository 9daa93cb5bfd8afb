//! `config.json` and `generation_config.json` of any family.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::loose::TokenIds;
use super::{decoder, family, nested, opt};
use crate::arch::{Family, ModelConfig};
use crate::error::{Error, Result};
use crate::storage::json;

pub const CONFIG_FILE: &str = "config.json";

/// Reads the config of a decoder, or of the text part of a vision model.
///
/// # Errors
/// An architecture, activation or RoPE variant other than the supported ones; a missing, mistyped or
/// impossible number.
pub fn parse(path: &Path, json: &Value) -> Result<ModelConfig> {
    let text = nested::text(json);
    let json = text.as_ref().unwrap_or(json);
    // The architecture first: another family's other keys would only give a misleading message.
    let config = match family::of(path, json)? {
        Family::Opt => opt::parse(path, json)?,
        family => decoder::parse(path, json, family)?,
    };
    config.check().map_err(|what| Error::damaged(path, what))?;
    Ok(config)
}

/// Reads the end-of-sequence ids of `generation_config.json`, where chat models list more than in `config.json`.
pub fn generation_eos(path: &Path) -> Result<Vec<u32>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    // An absent key is the same as null.
    let ids = json::read_json(path)?.get("eos_token_id").cloned().unwrap_or(Value::Null);
    let ids = TokenIds::deserialize(ids)
        .map_err(|_| Error::damaged(path, "eos_token_id is neither a token id nor a list of them"))?;
    Ok(ids.0)
}
