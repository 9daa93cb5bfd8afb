//! JSONL files: one object a line, each row remembering where it stands so that whatever is wrong with
//! it later can be said with file, line and field.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

#[derive(Debug, Clone)]
pub struct Dataset {
    pub path: PathBuf,
    /// BLAKE3 of the bytes that were parsed, which binds a run to its data. Taken while parsing, since a pipe cannot be read again.
    pub digest: [u8; 32],
    pub rows: Vec<Row>,
}

/// One line of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    path: Arc<Path>,
    /// From 1, blank lines counted.
    pub line: usize,
    pub fields: Map<String, Value>,
}

impl Dataset {
    /// Reads every row of `path`; blank lines are skipped.
    ///
    /// # Errors
    /// A line that is not UTF-8 or not a JSON object, and a file without rows.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
        let shared: Arc<Path> = Arc::from(path);
        let mut rows = Vec::new();
        let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            let text = std::str::from_utf8(text)
                .map_err(|e| {
                    Error::line(
                        path,
                        line,
                        format!("not UTF-8, from byte {} of the line on", e.valid_up_to()),
                    )
                })?
                .trim();
            if text.is_empty() {
                continue;
            }
            let wrong = |got: String| {
                let hint = if rows.is_empty() { whole_document(text) } else { "" };
                Error::line(path, line, format!("expected a JSON object, got {got}{hint}"))
            };
            let value =
                serde_json::from_str(text).map_err(|e| wrong(format!("text that is no JSON: {e}")))?;
            let Value::Object(fields) = value else { return Err(wrong(describe(&value))) };
            rows.push(Row { path: Arc::clone(&shared), line, fields });
        }
        if rows.is_empty() {
            return Err(Error::invalid(
                format!("{}: no rows", path.display()),
                "a dataset is a JSONL file: one JSON object a line",
            ));
        }
        Ok(Self { path: path.to_path_buf(), digest: *blake3::hash(&bytes).as_bytes(), rows })
    }
}

impl Row {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error at this row.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::line(&*self.path, self.line, what)
    }

    /// An error at this row: `field` is not what was expected.
    pub fn wrong(&self, field: &str, expected: &str) -> Error {
        let got = self.fields.get(field).map_or_else(|| "nothing".to_string(), describe);
        self.error(format!("field `{field}`: expected {expected}, got {got}"))
    }

    pub fn field(&self, name: &str) -> Result<&Value> {
        self.fields.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
            self.error(format!("no field `{name}`; the row has: {}", names.join(", ")))
        })
    }

    pub fn text(&self, name: &str) -> Result<&str> {
        self.field(name)?.as_str().ok_or_else(|| self.wrong(name, "a string"))
    }

    /// A non-empty list of strings; `path` leads through nested objects (`["answers", "text"]`).
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

/// Advice for a file that is one JSON document rather than a row per line.
fn whole_document(line: &str) -> &'static str {
    match line.as_bytes().first() {
        Some(b'[') => {
            "; the file is a JSON array: a dataset has one object a line, which `jq -c '.[]' FILE > FILE.jsonl` writes"
        }
        Some(b'{') => {
            "; an object is written over several lines: a dataset has one object a line, which \
             `jq -c . FILE > FILE.jsonl` writes"
        }
        _ => "",
    }
}

/// A JSON value in a message: its kind, and itself where it is short.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Dataset> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, bytes).unwrap();
        Dataset::read(&path)
    }

    fn error(bytes: &[u8]) -> String {
        let message = read(bytes).unwrap_err().to_string();
        message.split_once("rows.jsonl").unwrap().1.to_string()
    }

    #[test]
    fn blank_lines_crlf_and_a_bom_are_no_rows_but_lines_are_counted() {
        let data = read(b"\xEF\xBB\xBF\n{\"a\": 1}\r\n   \n\n{\"a\": \"\xC3\xA9\"}").unwrap();
        assert_eq!(data.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(data.rows[1].text("a").unwrap(), "é");
    }

    #[test]
    fn what_is_no_object_is_named_with_its_line() {
        assert_eq!(error(b"{}\n[1, 2]"), ":2: expected a JSON object, got a list of 2");
        for array in [&b"[{\"a\": 1}]"[..], b"[\n  {\"a\": 1},\n]", b"\n\n[ {\"a\": 1},"] {
            assert!(error(array).contains("the file is a JSON array: a dataset has one object a line"));
        }
        assert!(error(b"{\n  \"a\": 1\n}").contains("an object is written over several lines"));
        assert_eq!(error(b"\"hi\""), ":1: expected a JSON object, got the string \"hi\"");
        assert!(error(b"{\"a\": }").starts_with(":1: expected a JSON object, got text that is no JSON: "));
        assert_eq!(error(b"{}\n{\"a\": \"\xFF\"}"), ":2: not UTF-8, from byte 7 of the line on");
        assert_eq!(error(b""), ": no rows");
        assert_eq!(error(b"\n \n"), ": no rows");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Dataset::read(Path::new("/nowhere/train.jsonl")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/train.jsonl: reading: "), "{error}");
    }

    #[test]
    fn fields_that_are_missing_or_of_the_wrong_kind_are_named() {
        let data =
            read(br#"{"text": 3, "id": "x", "answers": {"text": []}, "s": ["a", 1], "o": null}"#).unwrap();
        let row = &data.rows[0];
        let message = |e: Error| e.to_string().split_once("rows.jsonl").unwrap().1.to_string();
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
