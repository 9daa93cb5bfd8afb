//! Decoding one token at a time, as a generation needs it.

use super::failed::failed;
use crate::error::Result;

/// Decodes a growing sequence of tokens and gives its text at complete characters only.
///
/// The text of a token depends on its neighbours (bytes of one character, SentencePiece's leading space). So the new
/// tokens are decoded together with those before them, and the text that they add is returned.
pub struct StreamDecoder<'t> {
    tokenizer: &'t tokenizers::Tokenizer,
    /// Context, then tokens whose text has not been returned yet.
    ids: Vec<u32>,
    /// Number of `ids` that are context.
    context: usize,
}

/// Tokens of a prompt that are kept as context: enough for the longest character (4 byte tokens) and the word before
/// it.
const CONTEXT: usize = 8;

impl<'t> StreamDecoder<'t> {
    /// Decodes the tokens that follow `prompt`.
    pub(super) fn new(tokenizer: &'t tokenizers::Tokenizer, prompt: &[u32]) -> Self {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Self { tokenizer, context: ids.len(), ids }
    }

    /// The text that `id` completes; empty in the middle of a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let (text, complete) = self.new_text()?;
        if text.is_empty() || !complete {
            return Ok(String::new());
        }
        // The tokens of the returned text are the next context.
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        Ok(text)
    }

    /// The text that is left at the end of a generation: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> Result<String> {
        let (text, _) = self.new_text()?;
        self.ids.clear();
        self.context = 0;
        Ok(text)
    }

    /// The text that the new tokens add, and whether it ends with a complete character.
    fn new_text(&self) -> Result<(String, bool)> {
        let before = self.decode(&self.ids[..self.context])?;
        let all = self.decode(&self.ids)?;
        let text = all.strip_prefix(&before).unwrap_or_default();
        Ok((text.to_string(), !text.ends_with('\u{FFFD}')))
    }
    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|e| failed("decoding tokens", &e))
    }
}
