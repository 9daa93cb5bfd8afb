//! JSON in UTF-8: one object a line (JSONL), or one array of objects. A byte-order mark, CR LF and blank lines are accepted.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::data::row::{Row, RowPlace, describe};
use crate::error::{Error, Result};

/// Reads a row from every object.
///
/// # Errors
/// Text that is not UTF-8 or not JSON, and a line or an element that is not an object.
pub fn rows(bytes: Vec<u8>, path: &Arc<Path>) -> Result<Vec<Row>> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    match bytes.trim_ascii_start().first() {
        Some(b'[') => elements(bytes, path),
        _ => lines(bytes, path),
    }
}

/// The objects of an array.
fn elements(bytes: &[u8], path: &Arc<Path>) -> Result<Vec<Row>> {
    let values: Vec<Value> = serde_json::from_slice(bytes).map_err(|error| {
        let what = format!("expected a JSON array of objects, got text that is not JSON: {error}");
        Error::line(&**path, error.line().max(1), what)
    })?;
    let row = |(number, value)| match value {
        Value::Object(fields) => Ok(Row::new(Arc::clone(path), RowPlace::Number(number), fields)),
        other => {
            let row = Row::new(Arc::clone(path), RowPlace::Number(number), Map::new());
            Err(row.error(format!("expected a JSON object, got {}", describe(&other))))
        }
    };
    (1..).zip(values).map(row).collect()
}

/// The object of every line that is not blank.
fn lines(bytes: &[u8], path: &Arc<Path>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
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
            let is_cut = rows.is_empty() && text.starts_with('{');
            let hint = if is_cut { SEVERAL_LINES } else { "" };
            Error::line(&**path, line, format!("expected a JSON object, got {got}{hint}"))
        };
        let value = serde_json::from_str(text).map_err(|e| wrong(format!("text that is not JSON: {e}")))?;
        let Value::Object(fields) = value else { return Err(wrong(describe(&value))) };
        rows.push(Row::new(Arc::clone(path), RowPlace::Line(line), fields));
    }
    Ok(rows)
}

const SEVERAL_LINES: &str =
    "; an object is written over several lines: then all of them must stand in one array: [{…}, {…}]";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Row>> {
        rows(bytes.to_vec(), &Arc::from(Path::new("rows.jsonl")))
    }

    fn error(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string().strip_prefix("rows.jsonl").unwrap().to_string()
    }

    #[test]
    fn blank_lines_crlf_and_a_bom_are_skipped_but_lines_are_counted() {
        let rows = read(b"\xEF\xBB\xBF\n{\"a\": 1}\r\n   \n\n{\"a\": \"\xC3\xA9\"}").unwrap();
        assert_eq!(rows.iter().map(Row::place).collect::<Vec<_>>(), ["rows.jsonl:2", "rows.jsonl:5"]);
        assert_eq!(rows[1].text("a").unwrap(), "é");
    }

    #[test]
    fn an_array_is_read_whether_on_one_line_or_on_many() {
        for array in
            [&b"[{\"a\": 1}, {\"a\": 2}]"[..], b"\xEF\xBB\xBF\n [\r\n  {\"a\":\n 1},\n{\"a\": 2}\n]\n"]
        {
            let rows = read(array).unwrap();
            assert_eq!(rows.iter().map(|row| row.fields["a"].clone()).collect::<Vec<_>>(), [1, 2]);
            assert_eq!(rows[1].place(), "rows.jsonl, row 2");
        }
        assert_eq!(error(b"[{}, 3]"), ", row 2: expected a JSON object, got the number 3");
        let cut = error(b"[{\"a\": 1},\n{\"a\"");
        assert!(
            cut.starts_with(":2: expected a JSON array of objects, got text that is not JSON: EOF"),
            "{cut}"
        );
        assert!(error(b"[{}]\n[{}]").contains("trailing characters"));
    }

    #[test]
    fn a_line_that_is_not_an_object_is_named() {
        assert_eq!(error(b"{}\n[1, 2]"), ":2: expected a JSON object, got a list of 2");
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
