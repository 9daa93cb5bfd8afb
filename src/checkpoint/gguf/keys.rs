//! The key-values of a GGUF file, by type.

use std::path::Path;

use super::header::{GgufArray, GgufHeader, GgufValue};
use crate::error::{Error, Result};

/// A file's values, by type.
pub struct Keys<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
    pub header: &'a GgufHeader,
}

impl<'a> Keys<'a> {
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&GgufValue::Unsigned(n)) if usize::try_from(n).is_ok() => Ok(Some(n as usize)),
            Some(&GgufValue::Signed(n)) if usize::try_from(n).is_ok() => Ok(Some(n as usize)),
            Some(GgufValue::Array(_)) => {
                Err(self.unsupported(format!("{key} per layer"), "one value for all layers"))
            }
            Some(other) => Err(self.mistyped(key, "a count", other)),
        }
    }

    /// A count that must be there and must not be 0, since it divides others.
    pub fn dimension(&self, key: &str) -> Result<usize> {
        match self.need(self.count(key)?, key)? {
            0 => Err(Error::damaged(self.path, format!("{key} is 0"))),
            n => Ok(n),
        }
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&GgufValue::Float(x)) => Ok(Some(x)),
            Some(other) => Err(self.mistyped(key, "a float", other)),
        }
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&GgufValue::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(self.mistyped(key, "a bool", other)),
        }
    }

    pub fn string(&self, key: &str) -> Result<Option<&'a str>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(GgufValue::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(key, "a string", other)),
        }
    }

    pub fn array(&self, key: &str) -> Result<Option<GgufArray>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&GgufValue::Array(array)) => Ok(Some(array)),
            Some(other) => Err(self.mistyped(key, "an array", other)),
        }
    }

    /// A token id, which is checked against the vocabulary: it is used as an index.
    pub fn token(&self, name: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        // −1 means that there is no such token.
        const NONE: u64 = u32::MAX as u64;
        if let Some(GgufValue::Signed(..0) | GgufValue::Unsigned(NONE)) = self.header.values.get(&key) {
            return Ok(None);
        }
        let id = self.count(&key)?;
        let vocabulary = self.vocab_size()?;
        match id {
            Some(id) if id >= vocabulary => {
                Err(Error::damaged(self.path, format!("{key} is {id}, beyond a vocabulary of {vocabulary}")))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }

    /// The number of the embedding's rows. A file's list of tokens may be shorter, but not longer.
    pub fn vocab_size(&self) -> Result<usize> {
        let embedding = self.header.tensors.iter().find(|t| t.name == "token_embd.weight");
        let rows = self.need(embedding, "token_embd.weight")?.rows();
        match self.array("tokenizer.ggml.tokens")?.filter(|tokens| tokens.count > rows) {
            Some(tokens) => {
                Err(Error::damaged(self.path, format!("{} tokens, but {rows} embeddings", tokens.count)))
            }
            None => Ok(rows),
        }
    }

    /// # Errors
    /// The file does not have the key.
    pub fn need<T>(&self, value: Option<T>, key: &str) -> Result<T> {
        value.ok_or_else(|| Error::damaged(self.path, format!("has no {key}")))
    }

    fn mistyped(&self, key: &str, expected: &str, got: &GgufValue) -> Error {
        Error::damaged(self.path, format!("{key}: expected {expected}, got {got:?}"))
    }

    pub fn unsupported(&self, what: String, works: &str) -> Error {
        Error::unsupported(
            format!("{}: {what} is not supported", self.path.display()),
            format!("works: {works}"),
        )
    }
}
