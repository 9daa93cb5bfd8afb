//! One text that grows.

use super::options::{GenerateOptions, Generated, Stop};
use super::stopped_text::StoppedText;
use crate::data::{StreamDecoder, Tokenizer};
use crate::error::Result;

/// A prompt with the tokens and the text that continue it.
pub struct GrowingText<'a> {
    /// Its number among the prompts.
    pub index: usize,
    pub prompt: &'a [u32],
    /// The tokens that the model reads next.
    pub unread: Vec<u32>,
    pub tokens: Vec<u32>,
    /// Reason why it has ended.
    pub stop: Option<Stop>,
    decoder: StreamDecoder<'a>,
    text: StoppedText<'a>,
    /// Most tokens that may continue the prompt, and the reason.
    limit: (usize, Stop),
}

impl<'a> GrowingText<'a> {
    /// Begins with a prompt within the model's `context`.
    pub fn new(
        index: usize,
        prompt: &'a [u32],
        tokenizer: &'a Tokenizer,
        options: &'a GenerateOptions,
        context: usize,
    ) -> Self {
        // The last token is not read any more, and needs no place in the context.
        let room = context - prompt.len() + 1;
        Self {
            index,
            prompt,
            unread: prompt.to_vec(),
            tokens: Vec::new(),
            stop: None,
            decoder: tokenizer.decoder_after(prompt),
            text: StoppedText::new(&options.stop),
            limit: match options.max_new_tokens <= room {
                true => (options.max_new_tokens, Stop::MaxNewTokens),
                false => (room, Stop::ContextFull),
            },
        }
    }

    /// Adds the next token, or ends the text where there is none. `on_text` is given the text that becomes certain, and
    /// ends the generation by returning false.
    pub fn push(&mut self, token: Option<u32>, on_text: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        let mut piece = String::new();
        match token {
            Some(token) => {
                self.tokens.push(token);
                self.unread = vec![token];
                piece = self.decoder.push(token)?;
            }
            None => self.stop = Some(Stop::EndOfText),
        }
        if self.tokens.len() == self.limit.0 {
            self.stop = Some(self.limit.1);
        }
        if self.stop.is_some() {
            piece.push_str(&self.decoder.finish()?);
        }
        if self.text.push(&piece) {
            self.stop = Some(Stop::StopString);
        }
        let certain = if self.stop.is_some() { self.text.rest() } else { self.text.release() };
        if !certain.is_empty() && !on_text(certain) {
            self.stop = Some(Stop::Cut);
        }
        Ok(())
    }

    /// The text after its end.
    pub fn finish(self) -> Generated {
        let stop = self.stop.unwrap_or_default();
        Generated { text: self.text.into_text(), tokens: self.tokens, stop }
    }
}
