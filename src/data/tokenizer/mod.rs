//! Tokenizers, through the `tokenizers` crate whatever files they come from: a Hugging Face directory, or a GGUF's
//! metadata, from which the same tokenizer is rebuilt.

mod directory;
mod failed;
mod from_gguf;
mod ids;
mod json_files;
mod long_text;
mod merges;
mod pre_tokenizer;
mod stream;
#[cfg(test)]
mod tests;
mod to_gguf;

pub use from_gguf::{GgufVocab, TURN_ENDS};
pub use ids::Tokenizer;
pub use long_text::{LongText, PIECE};
pub use stream::StreamDecoder;
#[cfg(test)]
pub use tests::for_tests;
