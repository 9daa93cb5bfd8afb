//! Prompts with `{field}` placeholders, filled from a dataset row. `{{` and `}}` stand for braces.

use serde_json::Value;

use super::dataset::{Row, describe};
use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

impl PromptTemplate {
    /// # Errors
    /// A brace without its partner, or an empty placeholder.
    pub fn parse(template: &str) -> Result<Self> {
        let invalid = |what: &str| {
            Error::invalid(
                format!("prompt `{template}`: {what}"),
                "a placeholder is {field}; write {{ and }} for the characters themselves",
            )
        };
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = template.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.peek() == Some(&c) => {
                    chars.next();
                    text.push(c);
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some('{') | None => return Err(invalid("a `{` without its `}`")),
                            Some(c) => name.push(c),
                        }
                    }
                    if name.trim().is_empty() {
                        return Err(invalid("a placeholder without a field name"));
                    }
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Field(name.trim().to_string()));
                }
                '}' => return Err(invalid("a `}` without its `{`")),
                c => text.push(c),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { pieces })
    }

    /// Whether every row gives the same text.
    pub fn is_constant(&self) -> bool {
        !self.pieces.iter().any(|piece| matches!(piece, Piece::Field(_)))
    }

    /// The prompt of one row: strings as they are, numbers as JSON writes them.
    ///
    /// # Errors
    /// A field that the row does not have, or that is neither a string nor a number.
    pub fn fill(&self, row: &Row) -> Result<String> {
        let mut prompt = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => prompt.push_str(text),
                Piece::Field(name) => match row.field(name)? {
                    Value::String(text) => prompt.push_str(text),
                    Value::Number(number) => prompt.push_str(&number.to_string()),
                    other => {
                        let got = describe(other);
                        return Err(
                            row.error(format!("field `{name}`: expected a string or a number, got {got}"))
                        );
                    }
                },
            }
        }
        Ok(prompt)
    }
}
