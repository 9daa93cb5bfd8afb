//! Text ↔ token ids.

use std::ops::Range;
use std::sync::OnceLock;

use serde::Serialize;

use super::failed::failed;
use super::long_text::LongText;
use super::stream::StreamDecoder;
use crate::data::chat::{ChatTemplate, Message, RenderedChat, SpecialTokens};
use crate::error::{Error, Result};

/// Size in bytes from which a text is tokenized in pieces.
const LONG: usize = 1 << 17;

/// A tokenizer with the special tokens and the chat template that its files name.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
    chat_template: Option<String>,
    /// The chat template, compiled when it is first used.
    compiled: OnceLock<ChatTemplate>,
    special_tokens: SpecialTokens,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { inner: _, bos, eos, chat_template, compiled: _, special_tokens } = self;
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
    /// `eos` holds every token that ends a generation, the end of a text first.
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
        Ok(Self { inner, bos, eos, chat_template, compiled: OnceLock::new(), special_tokens })
    }

    /// Token ids of a text. Special tokens written out in the text are recognised; `add_special` adds
    /// those that the tokenizer puts around every text (BOS for most Llama models, none for SmolLM2).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        if text.len() > LONG {
            let mut long = self.long_text();
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

    /// Token ids of a text without added special tokens, and the range of bytes that each stands for. The range of a
    /// token that only holds white space may be empty.
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self.inner.encode(text, false).map_err(|e| failed("tokenizing", &e))?;
        let offsets = encoding.get_offsets().iter().map(|(start, end)| *start..*end);
        Ok((encoding.get_ids().to_vec(), offsets.collect()))
    }

    /// Whether a token is a special one, such as the end of a turn.
    pub fn is_special(&self, id: u32) -> bool {
        let token =
            || self.token(id).is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token));
        self.eos.contains(&id) || token()
    }

    /// Begins a text that is given in parts.
    pub fn long_text(&self) -> LongText<'_> {
        LongText::new(&self.inner)
    }

    /// Warns if a text begins or ends with a special token that this tokenizer adds by itself. `ids` are the tokens of
    /// the text with the added ones.
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

    /// Puts the tokenizer's special tokens around the tokens of a text.
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

    /// The text of token ids; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| failed("decoding tokens", &e))
    }

    /// A decoder that takes one token at a time; special tokens give no text.
    pub fn decoder(&self) -> StreamDecoder<'_> {
        self.decoder_after(&[])
    }

    /// A decoder for the tokens that follow `prompt`, so that a first word keeps its leading space.
    pub fn decoder_after(&self, prompt: &[u32]) -> StreamDecoder<'_> {
        StreamDecoder::new(&self.inner, prompt)
    }

    /// The token that begins a text, whether or not this tokenizer adds it by itself.
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

    /// The text of a chat, in the form that the model was trained on.
    ///
    /// # Errors
    /// No chat template, or one that fails.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_messages(messages, None, add_generation_prompt).map(|chat| chat.text)
    }

    /// The text of a chat whose messages may have any fields, with the tools that the assistant may call.
    ///
    /// # Errors
    /// Those of [`Self::render_chat`].
    pub fn render_messages(
        &self,
        messages: &[impl Serialize],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<RenderedChat> {
        self.template()?.render(messages, tools, add_generation_prompt, &self.special_tokens)
    }

    /// Whether the chat template marks the assistant's turns.
    ///
    /// # Errors
    /// Those of [`Self::render_chat`].
    pub fn marks_turns(&self) -> Result<bool> {
        Ok(self.template()?.is_marked)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        if let Some(template) = self.compiled.get() {
            return Ok(template);
        }
        let source = self.chat_template().ok_or_else(|| {
            Error::unsupported(
                "the model has no chat template",
                "give one as a file (data.chat_template), or give the whole prompt as text",
            )
        })?;
        let template = ChatTemplate::new(source)?;
        Ok(self.compiled.get_or_init(|| template))
    }

    /// Uses another chat template than that of the model's files.
    pub fn set_chat_template(&mut self, source: String) {
        self.chat_template = Some(source);
        self.compiled = OnceLock::new();
    }

    /// The tokenizer as a `tokenizer.json`.
    pub(super) fn json(&self) -> Result<serde_json::Value> {
        let text = self.inner.to_string(false).map_err(|e| failed("serializing the tokenizer", &e))?;
        serde_json::from_str(&text).map_err(|e| failed("serializing the tokenizer", &e.into()))
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// A hash that two tokenizers share only if they give the same ids for every text.
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
