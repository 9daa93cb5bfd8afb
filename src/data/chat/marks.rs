//! Where the assistant's turns are in a rendered chat: `{% generation %}` blocks, between two marks that are then removed.

use std::ops::Range;

use minijinja::Environment;

use crate::error::{Error, Result};

/// A rendered chat, with the ranges of bytes that the template marks as the assistant's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedChat {
    pub text: String,
    pub marked: Vec<Range<usize>>,
}

/// Characters that Unicode keeps free of any meaning, so that texts do not contain them.
const START: char = '\u{FDD0}';
const END: char = '\u{FDD1}';

/// Adds the filter through which the body of a `generation` block goes.
pub fn add(env: &mut Environment<'_>) {
    env.add_filter("py_generation", |body: String| format!("{START}{body}{END}"));
}

/// Removes the marks from a rendered text.
///
/// # Errors
/// Marks that are not pairs, because the messages contain them or the template nests its blocks.
pub fn split(text: &str) -> Result<RenderedChat> {
    let mut out = String::with_capacity(text.len());
    let mut marked: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for part in text.split_inclusive([START, END]) {
        let plain = part.trim_end_matches([START, END]);
        out.push_str(plain);
        match (part[plain.len()..].chars().next(), start) {
            (None, _) => {}
            (Some(START), None) => start = Some(out.len()),
            (Some(END), Some(from)) => {
                marked.push(from..out.len());
                start = None;
            }
            _ => return Err(unbalanced()),
        }
    }
    if start.is_some() {
        return Err(unbalanced());
    }
    Ok(RenderedChat { text: out, marked })
}

fn unbalanced() -> Error {
    Error::invalid(
        "chat template: its {% generation %} blocks are nested, or a message has the character U+FDD0 or U+FDD1",
        "leave the characters out, or give another template (data.chat_template)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_ranges_of_bytes() {
        let chat = split("u:\u{FDD0}hé\u{FDD1} \u{FDD0}\u{FDD1}x").unwrap();
        assert_eq!((chat.text.as_str(), chat.marked), ("u:hé x", vec![2..5, 6..6]));
        assert!(split("no marks").unwrap().marked.is_empty());
        for unpaired in ["\u{FDD0}a", "a\u{FDD1}", "\u{FDD0}\u{FDD0}a\u{FDD1}\u{FDD1}"] {
            assert!(split(unpaired).is_err(), "{unpaired:?}");
        }
    }
}
