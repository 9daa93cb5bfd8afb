//! One row of a dataset, which remembers where it stands, so that each error in it is reported with file, place and
//! field.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One row of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    path: Arc<Path>,
    at: RowPlace,
    pub fields: Map<String, Value>,
}

/// The place of a row in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowPlace {
    /// Line of the file, counted from 1, blank lines included.
    Line(usize),
    /// Number of the row, counted from 1, in a file that is not read by lines.
    Number(usize),
}

impl Row {
    pub fn new(path: Arc<Path>, at: RowPlace, fields: Map<String, Value>) -> Self {
        Self { path, at, fields }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file and the place in it, as errors name them.
    pub fn place(&self) -> String {
        match self.at {
            RowPlace::Line(line) => format!("{}:{line}", self.path.display()),
            RowPlace::Number(row) => format!("{}, row {row}", self.path.display()),
        }
    }

    /// An error at this row.
    pub fn error(&self, what: impl Into<String>) -> Error {
        match self.at {
            RowPlace::Line(line) => Error::line(&*self.path, line, what),
            RowPlace::Number(row) => Error::row(&*self.path, row, what),
        }
    }

    /// The error for a `field` that does not hold `expected`.
    pub fn wrong(&self, field: &str, expected: &str) -> Error {
        let got = self.fields.get(field).map_or_else(|| "nothing".to_string(), describe);
        self.error(format!("field `{field}`: expected {expected}, got {got}"))
    }

    /// # Errors
    /// A field that the row does not have.
    pub fn field(&self, name: &str) -> Result<&Value> {
        self.fields.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
            self.error(format!("no field `{name}`; the row has: {}", names.join(", ")))
        })
    }

    /// # Errors
    /// A field that is missing or not a string.
    pub fn text(&self, name: &str) -> Result<&str> {
        self.field(name)?.as_str().ok_or_else(|| self.wrong(name, "a string"))
    }

    /// A string as it is, or a number as JSON writes it.
    ///
    /// # Errors
    /// A field that is missing or neither a string nor a number.
    pub fn written(&self, name: &str) -> Result<String> {
        match self.field(name)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(self.wrong(name, "a string or a number")),
        }
    }

    /// A non-empty list of strings; `path` leads through nested objects (`["answers", "text"]`).
    ///
    /// # Errors
    /// A field that is missing or not such a list.
    pub fn texts(&self, path: &[&str]) -> Result<Vec<String>> {
        let mut names = path.iter();
        let first = names.next().copied().unwrap_or_default();
        let mut value = self.field(first)?;
        for name in names {
            value = value
                .get(name)
                .ok_or_else(|| self.wrong(first, &format!("an object with `{}`", path.join("."))))?;
        }
        let list = value.as_array().and_then(|list| {
            list.iter().map(|item| item.as_str().map(str::to_string)).collect::<Option<Vec<String>>>()
        });
        list.filter(|list| !list.is_empty()).ok_or_else(|| {
            self.error(format!(
                "field `{}`: expected a list of one or more strings, got {}",
                path.join("."),
                describe(value)
            ))
        })
    }
}

/// Names a JSON value in a message: its kind, and the value itself if it is short.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_string(),
        Value::Bool(b) => format!("{b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) if s.chars().count() <= 40 => format!("the string \"{s}\""),
        Value::String(s) => format!("a string of {} characters", s.chars().count()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_string(),
    }
}

/// The row with the fields of a JSON object, on a line of `rows.jsonl`.
#[cfg(test)]
pub fn for_tests(line: usize, json: &str) -> Row {
    Row::new(Arc::from(Path::new("rows.jsonl")), RowPlace::Line(line), serde_json::from_str(json).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_missing_or_of_the_wrong_kind_are_named() {
        let row =
            for_tests(1, r#"{"text": 3, "id": "x", "answers": {"text": []}, "s": ["a", 1], "o": null}"#);
        let message = |e: Error| e.to_string().strip_prefix("rows.jsonl").unwrap().to_string();
        assert_eq!(
            message(row.text("txt").unwrap_err()),
            ":1: no field `txt`; the row has: text, id, answers, s, o"
        );
        assert_eq!(
            message(row.text("text").unwrap_err()),
            ":1: field `text`: expected a string, got the number 3"
        );
        assert_eq!(message(row.text("o").unwrap_err()), ":1: field `o`: expected a string, got null");
        assert_eq!(
            message(row.texts(&["s"]).unwrap_err()),
            ":1: field `s`: expected a list of one or more strings, got a list of 2"
        );
        assert_eq!(
            message(row.texts(&["answers", "text"]).unwrap_err()),
            ":1: field `answers.text`: expected a list of one or more strings, got a list of 0"
        );
        assert_eq!(
            message(row.texts(&["id", "text"]).unwrap_err()),
            ":1: field `id`: expected an object with `id.text`, got the string \"x\""
        );
    }
}
