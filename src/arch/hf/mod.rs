//! `config.json` ↔ `ModelConfig`, in the words of old and new transformers. Knows nothing of quantization: its keys
//! belong to the file of each scheme.
//!
//! ```text
//! read      config.json and generation_config.json, whatever the family
//! write     the other direction, for a model from a file that has no config.json
//! family    the families' names in config.json, and the default of an absent key in each
//! decoder   the families that share their keys: all but OPT
//! opt       OPT, whose keys are its own
//! rope      the keys of rotary position embeddings
//! nested    configs of vision models, whose text part is a model of one of these families
//! keys      reading a config class's keys, and the errors of values that are not supported
//! loose     numbers, flags and token ids as Python accepts them
//! ```

mod decoder;
mod family;
mod keys;
pub mod loose;
mod nested;
mod opt;
mod read;
mod rope;
pub mod write;

pub use nested::{is_text, text, text_name};
pub use read::{CONFIG_FILE, generation_eos, parse};

#[cfg(test)]
mod tests;
