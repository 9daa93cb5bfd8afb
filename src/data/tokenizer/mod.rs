//! Text ↔ token ids, through the `tokenizers` crate whatever the tokenizer came from.
//!
//! Where one comes from is elsewhere: `tokenizer_dir` reads a Hugging Face directory,
//! `gguf_tokenizer` rebuilds the same from a GGUF's metadata.

use super::chat::SpecialTokens;
use super::long_text::LongText;
mod directory;
mod from_gguf;
mod merges;
mod pre_tokenizer;
mod vocab;

use crate::error::{Error, Result};
pub use from_gguf::GgufVocab;

/// Bytes of a text that is tokenized in pieces.
const LONG: usize = 1 << 17;

/// A tokenizer with what its files say of special tokens and of chats.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
    chat_template: Option<String>,
    special_tokens: SpecialTokens,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { inner: _, bos, eos, chat_template, special_tokens } = self;
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", bos)
            .field("eos", eos)
            .field("chat_template", &chat_template.is_some())
            .field("special_tokens", special_tokens)
            .finish()
    }
}

impl Tokenizer {
    /// `eos` holds every token that ends a generation, the end of a text first; `special_tokens` are the names
    /// and texts that a chat template may use.
    pub(super) fn new(
        mut inner: tokenizers::Tokenizer,
        bos: Option<u32>,
        eos: Vec<u32>,
        chat_template: Option<String>,
        special_tokens: SpecialTokens,
    ) -> Result<Self> {
        // A tokenizer.json may carry the length its model was trained at, and would cut texts silently.
        inner.with_truncation(None).map_err(|e| failed("setting up the tokenizer", &e))?;
        inner.with_padding(None);
        Ok(Self { inner, bos, eos, chat_template, special_tokens })
    }

    /// Token ids of a text. Special tokens written out in the text are recognised; `add_special` adds
    /// those that the tokenizer puts around every text (BOS for most Llama models, none for SmolLM2).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        if text.len() > LONG {
            let mut long = LongText::new(&self.inner);
            long.push(text)?;
            let tokens = long.finish()?;
            return if add_special { self.with_special(tokens) } else { Ok(tokens) };
        }
        let encoding = self.inner.encode_fast(text, add_special).map_err(|e| failed("tokenizing", &e))?;
        let ids = encoding.get_ids().to_vec();
        if add_special {
            self.warn_of_doubled(text, &ids);
        }
        Ok(ids)
    }

    /// Warns of a text that begins or ends with a special token that this tokenizer adds anyway. `ids` are the tokens of the
    /// text and the added ones.
    fn warn_of_doubled(&self, text: &str, ids: &[u32]) {
        let text = text.trim();
        let is_written = |id: u32, is_at_edge: fn(&str, &str) -> bool| {
            self.token(id).is_some_and(|token| !token.is_empty() && is_at_edge(text, &token))
        };
        if let [first, second, ..] = *ids
            && first == second
            && is_written(first, |text, token| text.starts_with(token))
        {
            self.warn_of_second_bos(first);
        }
        if let [.., second, last] = *ids
            && last == second
            && is_written(last, |text, token| text.ends_with(token))
        {
            self.warn_of_second_eos(last);
        }
    }

    fn warn_of_second_bos(&self, id: u32) {
        if let Some(token) = self.token(id).filter(|_| Some(id) == self.bos) {
            tracing::warn!(
                "a text begins with {token}, and the tokenizer adds another {token} before it, so the model sees \
                 two: leave it out of the text"
            );
        }
    }

    fn warn_of_second_eos(&self, id: u32) {
        if let Some(token) = self.token(id).filter(|_| Some(id) == self.eos_id()) {
            tracing::warn!(
                "a text ends with {token}, and the tokenizer adds another {token} after it, so the model sees two: \
                 leave it out of the text"
            );
        }
    }

    /// The tokens of a text between those that the tokenizer puts around every text.
    pub fn with_special(&self, tokens: Vec<u32>) -> Result<Vec<u32>> {
        let [before, after] = self.around()?;
        if let Some(first) = tokens.first().filter(|first| before.last() == Some(first)) {
            self.warn_of_second_bos(*first);
        }
        if let Some(last) = tokens.last().filter(|last| after.first() == Some(last)) {
            self.warn_of_second_eos(*last);
        }
        Ok([before, tokens, after].concat())
    }

    /// The special tokens that the tokenizer puts before and after every text.
    pub fn around(&self) -> Result<[Vec<u32>; 2]> {
        let encoding = self.inner.encode_fast("a", true).map_err(|e| failed("tokenizing", &e))?;
        let (ids, special) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let first = special.iter().take_while(|mask| **mask == 1).count();
        let last = special[first..].iter().rev().take_while(|mask| **mask == 1).count();
        Ok([ids[..first].to_vec(), ids[ids.len() - last..].to_vec()])
    }

    /// The text of some token ids; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| failed("decoding tokens", &e))
    }

    /// Decodes one token at a time, as a generation needs it; special tokens give no text.
    pub fn decoder(&self) -> StreamDecoder<'_> {
        self.decoder_after(&[])
    }

    /// Like `decoder`, for the tokens that follow `prompt`: a first word keeps its leading space.
    pub fn decoder_after(&self, prompt: &[u32]) -> StreamDecoder<'_> {
        // Enough for the longest character (4 byte tokens) and the word before it.
        const CONTEXT: usize = 8;
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        StreamDecoder { tokenizer: self, context: ids.len(), ids }
    }

    /// The token put before every text, whether or not this tokenizer adds it by itself.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos.first().copied()
    }

    /// Every token that ends a generation: `eos_id` first, then the ends of a chat turn.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens with an id, added ones included. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Jinja source of the default chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// A chat as the text that the model was trained on.
    pub fn render_chat(&self, messages: &[super::Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.chat_template().ok_or_else(|| {
            Error::unsupported(
                "the model has no chat template",
                "give the whole prompt as text, without --chat",
            )
        })?;
        super::chat::render(template, messages, add_generation_prompt, &self.special_tokens)
    }

    /// All of it, as a `tokenizer.json`.
    pub(super) fn json(&self) -> Result<serde_json::Value> {
        let text = self.inner.to_string(false).map_err(|e| failed("serializing the tokenizer", &e))?;
        serde_json::from_str(&text).map_err(|e| failed("serializing the tokenizer", &e.into()))
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// Identifies what texts become: two tokenizers that share it give the same ids.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        // `tokenizers` writes vocabulary, merges and added tokens in id order.
        let canonical = self.inner.to_string(false).map_err(|e| failed("serializing the tokenizer", &e))?;
        let mut hash = blake3::Hasher::new();
        hash.update(canonical.as_bytes());
        hash.update(&[u8::from(self.bos.is_some())]);
        hash.update(&self.bos.unwrap_or_default().to_le_bytes());
        for eos in &self.eos {
            hash.update(&eos.to_le_bytes());
        }
        Ok(*hash.finalize().as_bytes())
    }
}

/// Text of a growing token sequence, handed out at complete characters only.
///
/// One token's text depends on its neighbours (bytes of one character, SentencePiece's leading space),
/// so the tail is decoded with the tokens before it and only what is new is returned.
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    /// Context, then tokens whose text has not been returned yet.
    ids: Vec<u32>,
    context: usize,
}

impl StreamDecoder<'_> {
    /// The text that `id` completes; empty in the middle of a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let (text, complete) = self.new_text()?;
        if text.is_empty() || !complete {
            return Ok(String::new());
        }
        // What was new is the next context; everything before it has served.
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        Ok(text)
    }

    /// What is left at the end of a generation: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> Result<String> {
        let (text, _) = self.new_text()?;
        self.ids.clear();
        self.context = 0;
        Ok(text)
    }

    fn new_text(&self) -> Result<(String, bool)> {
        let before = self.tokenizer.decode(&self.ids[..self.context], true)?;
        let all = self.tokenizer.decode(&self.ids, true)?;
        let text = all.strip_prefix(&before).unwrap_or_default();
        Ok((text.to_string(), !text.ends_with('\u{FFFD}')))
    }
}

pub(super) fn failed(doing: &str, cause: &tokenizers::Error) -> Error {
    Error::invalid(format!("{doing}: {cause}"), "check that the tokenizer's files belong to the model")
}

#[cfg(test)]
mod tests;
