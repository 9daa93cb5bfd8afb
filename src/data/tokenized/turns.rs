//! The parts of a rendered conversation that are learned.
//!
//! A template that marks the assistant's turns with `{% generation %}` says itself what they are. With another one, a turn is
//! the text that it adds to the prompt which opens it, and the turns before must be rendered as they are without it. Where
//! later turns change how earlier ones are rendered (Qwen3 leaves out earlier thoughts), every turn becomes a text of its own,
//! which is what the model reads when it answers.

use std::ops::Range;

use crate::data::chat::{Conversation, RenderedChat, Turn};
use crate::data::row::{Row, describe};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A conversation as texts for the model, in which the assistant's turns are to be learned.
pub struct LearnedTurns {
    /// One text, or one for each turn.
    pub texts: Vec<LearnedText>,
    /// Whether the template writes an answer otherwise than right after the prompt that opens it, such as an answer without
    /// thoughts to a prompt that ends in `<think>`.
    pub is_reopened: bool,
}

/// A rendered chat, with the ranges of bytes that are learned.
pub struct LearnedText {
    pub text: String,
    pub learned: Vec<Range<usize>>,
}

impl LearnedTurns {
    /// The turns that the template marks.
    ///
    /// # Errors
    /// A conversation that the template refuses, or of which it marks other turns than the assistant's.
    pub fn marked(row: &Row, chat: &Conversation, tokenizer: &Tokenizer) -> Result<Self> {
        let rendered = render(row, &chat.turns, chat, false, tokenizer)?;
        let turns: Vec<bool> =
            chat.turns.iter().filter(|turn| turn.is_of_assistant()).map(|turn| turn.is_learned).collect();
        let learned = if turns.iter().all(|learned| *learned) {
            rendered.marked
        } else if turns.len() == rendered.marked.len() {
            let learned = rendered.marked.into_iter().zip(turns).filter(|(_, learned)| *learned);
            learned.map(|(range, _)| range).collect()
        } else {
            return Err(row.error(format!(
                "the chat template marks {} turns of {} of the assistant, so that it is not known which are to be learned",
                rendered.marked.len(),
                turns.len()
            )));
        };
        Ok(Self { texts: vec![LearnedText { text: rendered.text, learned }], is_reopened: false })
    }

    /// The turns by what each adds to the prompt that opens it: in one text, if the template allows it.
    ///
    /// # Errors
    /// A conversation that the template refuses, or whose turns cannot be told apart from what is before them.
    pub fn prefixed(row: &Row, chat: &Conversation, tokenizer: &Tokenizer) -> Result<Self> {
        let text = |turns: &[Turn], opens| Ok(render(row, turns, chat, opens, tokenizer)?.text);
        let whole = text(&chat.turns, false)?;
        let (mut texts, mut is_reopened) = (Vec::new(), false);
        for (i, _) in chat.turns.iter().enumerate().filter(|(_, turn)| turn.is_learned) {
            let turns = &chat.turns[..=i];
            let prompt = text(&chat.turns[..i], true)?;
            let with_turn = if turns.len() == chat.turns.len() { whole.clone() } else { text(turns, false)? };
            texts.push(match with_turn.starts_with(&prompt) && with_turn.len() > prompt.len() {
                true => LearnedText::learned_from(prompt.len(), with_turn),
                false => {
                    is_reopened = true;
                    reopened(turns, &prompt, &with_turn, text)?
                        .ok_or_else(|| not_a_prefix(row, turns, &prompt, &with_turn))?
                }
            });
        }
        if texts.iter().all(|turn| whole.starts_with(&turn.text)) {
            let learned = texts.into_iter().flat_map(|turn| turn.learned).collect();
            texts = vec![LearnedText { text: whole, learned }];
        }
        Ok(Self { texts, is_reopened })
    }
}

impl LearnedText {
    /// A text that is learned from a byte to its end.
    fn learned_from(start: usize, text: String) -> Self {
        let learned = std::iter::once(start..text.len()).collect();
        Self { text, learned }
    }
}

/// The last of `turns` where it does not go on from the prompt that opens it: the text from where it leaves the prompt, if what
/// comes before the turn is the same in both. What they share by chance is the turn's: a prompt that ends in "Here are my
/// thoughts" shares "He" with "Hello". So two other answers show where the turn's header ends.
fn reopened(
    turns: &[Turn],
    prompt: &str,
    with_turn: &str,
    render: impl Fn(&[Turn], bool) -> Result<String>,
) -> Result<Option<LearnedText>> {
    let Some((turn, before)) = turns.split_last() else { return Ok(None) };
    let context = render(before, false)?;
    let answer = |content: &str| {
        let mut turns = before.to_vec();
        turns.push(turn.with_content(content));
        render(&turns, false)
    };
    let one_answer = answer("a")?;
    let header = shared(&one_answer, &answer("b")?);
    if !with_turn.starts_with(&context) {
        let has_header = shared(&one_answer, with_turn) >= header;
        return Ok(if has_header { moved(before, prompt, with_turn, header) } else { None });
    }
    let start = shared(prompt, with_turn).min(header);
    let start = (0..=start).rev().find(|at| with_turn.is_char_boundary(*at)).unwrap_or(0);
    // A turn that differs from its first byte is only the model's if it has no header.
    let is_clear = start > context.len() || header == context.len();
    Ok((start >= context.len() && is_clear).then(|| LearnedText::learned_from(start, with_turn.to_owned())))
}

/// The prompt and after it the turn, where the template writes the prompt otherwise once the turn is there: Mistral's has the
/// system text only before a message of the user that is the last one. `header` is where the turn's text begins. What is
/// before it has to end as the prompt does, from the last message on.
fn moved(before: &[Turn], prompt: &str, with_turn: &str, header: usize) -> Option<LearnedText> {
    const LONGEST_HEADER: usize = 64;
    let same_end = |at: usize| {
        let before = with_turn.as_bytes()[..at].iter().rev();
        prompt.bytes().rev().zip(before).take_while(|(a, b)| a == *b).count()
    };
    let ends = (header.saturating_sub(LONGEST_HEADER)..=header).filter(|at| with_turn.is_char_boundary(*at));
    let (same, at) = ends.map(|at| (same_end(at), at)).max()?;
    let last = before.last()?.fields.get("content")?.as_str()?.trim();
    let is_same = !last.is_empty() && prompt.rfind(last)? >= prompt.len() - same;
    is_same.then(|| LearnedText::learned_from(prompt.len(), format!("{prompt}{}", &with_turn[at..])))
}

/// The number of bytes with which both texts begin.
fn shared(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

/// The first `turns` of a chat as the template writes them.
fn render(
    row: &Row,
    turns: &[Turn],
    chat: &Conversation,
    opens_turn: bool,
    tokenizer: &Tokenizer,
) -> Result<RenderedChat> {
    let messages: Vec<_> = turns.iter().map(|turn| &turn.fields).collect();
    let rendered = tokenizer.render_messages(&messages, chat.tools.as_ref(), opens_turn);
    rendered.map_err(|error| error.about(&row.place()))
}

fn not_a_prefix(row: &Row, turns: &[Turn], prompt: &str, text: &str) -> Error {
    let content = turns.last().and_then(|turn| turn.fields.get("content")).map_or_else(String::new, describe);
    let same = shared(prompt, text);
    let from = |text: &str| {
        let start = (0..=same).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text[start..].chars().take(40).collect::<String>()
    };
    Error::invalid(
        format!(
            "{}: the chat template opens message {} ({content}) with {:?}, where the whole chat has {:?}: it is not clear \
             which tokens are the assistant's",
            row.place(),
            turns.len(),
            from(prompt),
            from(text)
        ),
        "give a template that marks the assistant's turns with {% generation %} (data.chat_template)",
    )
}
