//! Conversations as tokens, of which those of the assistant's turns are scored and no others.
//!
//! A template that marks the assistant's turns with `{% generation %}` says itself what they are. With another one, a turn is
//! the text that it adds to the prompt which opens it, and the turns before must be rendered as they are without it. Where
//! later turns change how earlier ones are rendered (Qwen3 leaves out earlier thoughts), every turn becomes a sequence of its
//! own, which is what the model reads when it answers.

use std::ops::Range;

use super::row_tokens::RowTokens;
use crate::data::candidate::Candidate;
use crate::data::chat::{Conversation, RenderedChat};
use crate::data::row::{Row, describe};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// Tokenizes a conversation. One without a turn to learn has no sequence.
///
/// # Errors
/// A conversation that the template refuses, or whose turns cannot be told apart from what is before them.
pub fn tokenize(row: &Row, chat: &Conversation, tokenizer: &Tokenizer) -> Result<RowTokens> {
    if !chat.turns.iter().any(|turn| turn.is_learned) {
        return Ok(RowTokens::of_texts([]));
    }
    let is_marked = tokenizer.marks_turns()?;
    let texts = match is_marked {
        true => vec![marked(row, chat, tokenizer)?],
        false => prefixed(row, chat, tokenizer)?,
    };
    let candidates = texts.iter().map(|learned| candidate(learned, !is_marked, tokenizer));
    let candidates = candidates.collect::<Result<Vec<_>>>()?;
    Ok(RowTokens::of_texts(candidates))
}

/// A rendered chat, with the ranges of bytes that are learned.
struct LearnedText {
    text: String,
    learned: Vec<Range<usize>>,
}

/// The turns that the template marks.
fn marked(row: &Row, chat: &Conversation, tokenizer: &Tokenizer) -> Result<LearnedText> {
    let rendered = render(row, chat, chat.turns.len(), false, tokenizer)?;
    let turns: Vec<bool> =
        chat.turns.iter().filter(|turn| turn.is_of_assistant()).map(|turn| turn.is_learned).collect();
    if turns.iter().all(|learned| *learned) {
        return Ok(LearnedText { text: rendered.text, learned: rendered.marked });
    }
    if turns.len() != rendered.marked.len() {
        return Err(row.error(format!(
            "the chat template marks {} turns of {} of the assistant, so that it is not known which are to be learned",
            rendered.marked.len(),
            turns.len()
        )));
    }
    let learned = rendered.marked.into_iter().zip(turns).filter(|(_, learned)| *learned);
    Ok(LearnedText { text: rendered.text, learned: learned.map(|(range, _)| range).collect() })
}

/// The turns by what each adds to the prompt that opens it: in one text, if the template allows it.
fn prefixed(row: &Row, chat: &Conversation, tokenizer: &Tokenizer) -> Result<Vec<LearnedText>> {
    let whole = render(row, chat, chat.turns.len(), false, tokenizer)?.text;
    let mut apart = Vec::new();
    for (i, turn) in chat.turns.iter().enumerate().filter(|(_, turn)| turn.is_learned) {
        let prompt = render(row, chat, i, true, tokenizer)?.text;
        let text = match i + 1 == chat.turns.len() {
            true => whole.clone(),
            false => render(row, chat, i + 1, false, tokenizer)?.text,
        };
        if !text.starts_with(&prompt) || text.len() == prompt.len() {
            let content = turn.fields.get("content").map_or_else(String::new, describe);
            return Err(not_a_prefix(row, i, &prompt, &text, &content));
        }
        let learned = std::iter::once(prompt.len()..text.len()).collect();
        apart.push(LearnedText { text, learned });
    }
    if apart.iter().all(|turn| whole.starts_with(&turn.text)) {
        let learned = apart.into_iter().flat_map(|turn| turn.learned).collect();
        return Ok(vec![LearnedText { text: whole, learned }]);
    }
    Ok(apart)
}

/// The first `count` turns as the template writes them.
fn render(
    row: &Row,
    chat: &Conversation,
    count: usize,
    opens_turn: bool,
    tokenizer: &Tokenizer,
) -> Result<RenderedChat> {
    let messages = chat.messages();
    let rendered = tokenizer.render_messages(&messages[..count], chat.tools.as_ref(), opens_turn);
    rendered.map_err(|error| error.about(&row.place()))
}

fn not_a_prefix(row: &Row, turn: usize, prompt: &str, text: &str, content: &str) -> Error {
    let same = prompt.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    let from = |text: &str| {
        let start = (0..=same).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text[start..].chars().take(40).collect::<String>()
    };
    Error::invalid(
        format!(
            "{}: the chat template opens message {} ({content}) with {:?}, where the whole chat has {:?}: it is not clear \
             which tokens are the assistant's",
            row.place(),
            turn + 1,
            from(prompt),
            from(text)
        ),
        "give a template that marks the assistant's turns with {% generation %} (data.chat_template)",
    )
}

/// The tokens of a chat, whose template has written all special tokens. A token is scored if a byte of it is learned. With
/// `ends_turns`, white space after the token that ends a turn is not: the template writes it, the model never does.
fn candidate(chat: &LearnedText, ends_turns: bool, tokenizer: &Tokenizer) -> Result<Candidate> {
    let (tokens, offsets) = tokenizer.encode_with_offsets(&chat.text)?;
    let mut scored: Vec<Range<usize>> = Vec::new();
    for range in &chat.learned {
        let is_in = |at: &Range<usize>| at.start < range.end && (at.end > range.start);
        let Some(first) = offsets.iter().position(is_in) else { continue };
        let mut end = offsets.iter().rposition(is_in).map_or(first, |last| last + 1);
        let ends_turn = tokens[first..end].iter().rposition(|token| tokenizer.is_special(*token));
        if let Some(last) = ends_turn.filter(|_| ends_turns).map(|at| first + at + 1)
            && tokenizer.decode(&tokens[last..end], false)?.trim().is_empty()
        {
            end = last;
        }
        // Nothing comes before a text's first token, and no token is scored twice.
        let start = first.max(1).max(scored.last().map_or(0, |span| span.end));
        if start < end {
            scored.push(start..end);
        }
    }
    Ok(Candidate { tokens, scored, characters: 0 })
}
