//! `config.json` → `ModelConfig`, in the words of old and new transformers. Says which quantization
//! the directory holds; what that quantization's own keys mean is its format's file's business.
//!
//! ```text
//! family    which families there are, and what an absent key means in each
//! decoder   the Llama-like ones, whose keys are alike
//! rope      how they rotate
//! loose     numbers, flags and token ids as Python takes them
//! nested    configs of models that see, whose text part has the words of one of these
//! opt       OPT, whose keys are its own
//! write     the other direction
//! ```

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ModelConfig;
use crate::error::{Error, Result};
use crate::storage::json;

mod decoder;
mod family;
pub mod loose;
mod nested;
mod opt;
mod rope;
pub mod write;

use family::Family;
use loose::TokenIds;
pub use nested::{is_text, text, text_name};

pub const CONFIG_FILE: &str = "config.json";

/// # Errors
/// An architecture, activation or RoPE variant other than the supported ones; a missing, mistyped or
/// impossible number.
pub fn parse(path: &Path, json: &Value) -> Result<ModelConfig> {
    let text = nested::text(json);
    let json = text.as_ref().unwrap_or(json);
    // The architecture first: another family's other keys would only give a misleading message.
    let config = match Family::of(path, json)? {
        Family::Opt => opt::parse(path, json)?,
        family => decoder::parse(path, json, family)?,
    };
    config.check().map_err(|what| Error::damaged(path, what))?;
    Ok(config)
}

/// The end-of-sequence ids of `generation_config.json`, which chat models keep beyond `config.json`'s.
pub fn generation_eos(path: &Path) -> Result<Vec<u32>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let ids = json::read_json(path)?.get("eos_token_id").cloned().unwrap_or_default();
    let ids = TokenIds::deserialize(ids)
        .map_err(|_| Error::damaged(path, "eos_token_id is neither a token id nor a list of them"))?;
    Ok(ids.0)
}

/// The keys of a family's config class.
fn keys<T: DeserializeOwned>(path: &Path, json: &Value, family: Family) -> Result<T> {
    loose::read(json)
        .map_err(|e| Error::damaged(path, format!("not the configuration of a {family:?} model: {e}")))
}

/// The hidden size divided among the heads.
fn width_of_heads(path: &Path, hidden: usize, heads: usize) -> Result<usize> {
    match heads {
        0 => Err(Error::damaged(path, "num_attention_heads is 0")),
        _ if !hidden.is_multiple_of(heads) => {
            Err(Error::damaged(path, format!("hidden_size {hidden} is not a multiple of {heads} heads")))
        }
        _ => Ok(hidden / heads),
    }
}

fn unsupported(path: &Path, what: impl std::fmt::Display, works: &str) -> Error {
    Error::unsupported(format!("{}: {what} is not supported", path.display()), format!("works: {works}"))
}

#[cfg(test)]
mod tests;
