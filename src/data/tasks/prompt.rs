//! Prompts with `{field}` placeholders, which a dataset row fills. `{{` and `}}` stand for braces.

use crate::data::row::Row;
use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    parts: Vec<PromptPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PromptPart {
    Text(String),
    Field(String),
}

impl PromptTemplate {
    /// Parses the text of a prompt.
    ///
    /// # Errors
    /// A brace without its partner, or an empty placeholder.
    pub fn parse(template: &str) -> Result<Self> {
        let invalid = |what: &str| {
            Error::invalid(
                format!("prompt `{template}`: {what}"),
                "a placeholder is {field}; write {{ and }} for the characters themselves",
            )
        };
        let mut parts = Vec::new();
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
                        parts.push(PromptPart::Text(std::mem::take(&mut text)));
                    }
                    parts.push(PromptPart::Field(name.trim().to_string()));
                }
                '}' => return Err(invalid("a `}` without its `{`")),
                c => text.push(c),
            }
        }
        if !text.is_empty() {
            parts.push(PromptPart::Text(text));
        }
        Ok(Self { parts })
    }

    /// Whether every row gives the same text.
    pub fn is_constant(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, PromptPart::Field(_)))
    }

    /// The prompt of one row: strings as they are, numbers as JSON writes them.
    ///
    /// # Errors
    /// A field that the row does not have, or that is neither a string nor a number.
    pub fn fill(&self, row: &Row) -> Result<String> {
        let mut prompt = String::new();
        for part in &self.parts {
            match part {
                PromptPart::Text(text) => prompt.push_str(text),
                PromptPart::Field(name) => prompt.push_str(&row.written(name)?),
            }
        }
        Ok(prompt)
    }
}
