//! JSONL: one JSON object a line, in UTF-8. A byte-order mark, CR LF and blank lines are accepted.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::data::row::{Row, describe};
use crate::error::{Error, Result};

/// Reads a row from every line that is not blank.
///
/// # Errors
/// A line that is not UTF-8 or not a JSON object.
pub fn rows(bytes: &[u8], path: &Arc<Path>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let text = std::str::from_utf8(text)
            .map_err(|e| {
                let what = format!("not UTF-8, from byte {} of the line on", e.valid_up_to());
                Error::line(&**path, line, what)
            })?
            .trim();
        if text.is_empty() {
            continue;
        }
        let wrong = |got: String| {
            let hint = if rows.is_empty() { whole_document(text) } else { "" };
            Error::line(&**path, line, format!("expected a JSON object, got {got}{hint}"))
        };
        let value = serde_json::from_str(text).map_err(|e| wrong(format!("text that is not JSON: {e}")))?;
        let Value::Object(fields) = value else { return Err(wrong(describe(&value))) };
        rows.push(Row::new(Arc::clone(path), line, fields));
    }
    Ok(rows)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Row>> {
        rows(bytes, &Arc::from(Path::new("rows.jsonl")))
    }

    fn error(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string().strip_prefix("rows.jsonl").unwrap().to_string()
    }

    #[test]
    fn blank_lines_crlf_and_a_bom_are_skipped_but_lines_are_counted() {
        let rows = read(b"\xEF\xBB\xBF\n{\"a\": 1}\r\n   \n\n{\"a\": \"\xC3\xA9\"}").unwrap();
        assert_eq!(rows.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(rows[1].text("a").unwrap(), "é");
    }

    #[test]
    fn a_line_that_is_not_an_object_is_named() {
        assert_eq!(error(b"{}\n[1, 2]"), ":2: expected a JSON object, got a list of 2");
        for array in [&b"[{\"a\": 1}]"[..], b"[\n  {\"a\": 1},\n]", b"\n\n[ {\"a\": 1},"] {
            assert!(error(array).contains("the file is a JSON array: a dataset has one object a line"));
        }
        assert!(error(b"{\n  \"a\": 1\n}").contains("an object is written over several lines"));
        assert_eq!(error(b"\"hi\""), ":1: expected a JSON object, got the string \"hi\"");
        assert!(error(b"{\"a\": }").starts_with(":1: expected a JSON object, got text that is not JSON: "));
        assert_eq!(error(b"{}\n{\"a\": \"\xFF\"}"), ":2: not UTF-8, from byte 7 of the line on");
    }

    #[test]
    fn a_file_of_blank_lines_has_no_rows() {
        assert_eq!(read(b"").unwrap(), []);
        assert_eq!(read(b"\n \n").unwrap(), []);
    }
}
