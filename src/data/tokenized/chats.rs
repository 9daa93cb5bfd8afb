//! Conversations as tokens, of which those of the assistant's turns are scored and no others.

use std::ops::Range;

use super::row_tokens::RowTokens;
use super::turns::{LearnedText, LearnedTurns};
use crate::data::candidate::Candidate;
use crate::data::chat::Conversation;
use crate::data::row::Row;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;

/// Tokenizes a conversation. One without a turn to learn has no sequence.
///
/// # Errors
/// A conversation that the template refuses, or whose turns cannot be told apart from what is before them.
pub fn tokenize(row: &Row, chat: &Conversation, tokenizer: &Tokenizer) -> Result<RowTokens> {
    if !chat.turns.iter().any(|turn| turn.is_learned) {
        return Ok(RowTokens::of_texts([]));
    }
    let is_marked = tokenizer.marks_turns()?;
    let turns = match is_marked {
        true => LearnedTurns::marked(row, chat, tokenizer)?,
        false => LearnedTurns::prefixed(row, chat, tokenizer)?,
    };
    let candidates = turns.texts.iter().map(|learned| candidate(learned, !is_marked, tokenizer));
    let candidates = candidates.collect::<Result<Vec<_>>>()?;
    Ok(RowTokens { is_reopened: turns.is_reopened, ..RowTokens::of_texts(candidates) })
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
