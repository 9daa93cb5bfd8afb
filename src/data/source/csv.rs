//! Comma- and tab-separated values (RFC 4180) in UTF-8, whose first record names the fields.
//!
//! All cells are texts. A column whose cells are all integers, or all true or false, has numbers or truth values, as pandas
//! and `datasets` read it; an empty cell is null.

use std::path::Path;
use std::sync::Arc;

use csv::{ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use crate::data::row::{Row, RowPlace};
use crate::error::{Error, Result};

/// Reads comma-separated records.
///
/// # Errors
/// A record that is not UTF-8 or has another number of cells than the first, and a field that is named twice.
pub fn rows(bytes: Vec<u8>, path: &Arc<Path>) -> Result<Vec<Row>> {
    separated(b',', &bytes, path)
}

/// Reads tab-separated records.
///
/// # Errors
/// Those of [`rows`].
pub fn tab_separated(bytes: Vec<u8>, path: &Arc<Path>) -> Result<Vec<Row>> {
    separated(b'\t', &bytes, path)
}

fn separated(delimiter: u8, bytes: &[u8], path: &Arc<Path>) -> Result<Vec<Row>> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let wrong = |error: csv::Error| wrong(path, bytes, &error);
    let names = reader.headers().map_err(wrong)?.clone();
    let twice = names.iter().enumerate().find(|(i, name)| names.iter().take(*i).any(|other| other == *name));
    if let Some((_, name)) = twice {
        return Err(Error::line(&**path, 1, format!("two fields have the name `{name}`")));
    }
    let records = reader.records().collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let kinds: Vec<Kind> = (0..names.len()).map(|column| Kind::of(&records, column)).collect();
    let (mut counted, mut line) = (0, 1);
    let row = |record: StringRecord| {
        let start = start(bytes, record.position());
        line += lines(&bytes[counted..start]);
        counted = start;
        let cells = names.iter().zip(&kinds).zip(&record);
        let fields: Map<_, _> =
            cells.map(|((name, kind), cell)| (name.to_owned(), kind.value(cell))).collect();
        Row::new(Arc::clone(path), RowPlace::Line(line), fields)
    };
    Ok(records.into_iter().map(row).collect())
}

/// The byte with which a record begins. The reader's own position is before the blank lines and the LF of a CR LF that it
/// skips, and so is its count of lines.
fn start(bytes: &[u8], position: Option<&csv::Position>) -> usize {
    let at = position.map_or(0, |at| at.byte() as usize).min(bytes.len());
    at + bytes[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The type of a column.
enum Kind {
    Integer,
    Truth,
    Text,
}

impl Kind {
    /// The narrowest type of all cells that are not empty.
    fn of(records: &[StringRecord], column: usize) -> Self {
        let cells = || records.iter().filter_map(|record| record.get(column)).filter(|cell| !cell.is_empty());
        if cells().next().is_none() {
            return Self::Text;
        }
        if cells().all(|cell| integer(cell).is_some()) {
            return Self::Integer;
        }
        if cells().all(|cell| truth(cell).is_some()) { Self::Truth } else { Self::Text }
    }

    fn value(&self, cell: &str) -> Value {
        let value = match self {
            Self::Integer => integer(cell).map(Value::from),
            Self::Truth => truth(cell).map(Value::from),
            Self::Text => Some(cell).filter(|cell| !cell.is_empty()).map(Value::from),
        };
        value.unwrap_or(Value::Null)
    }
}

/// The integer that a cell writes, in the usual way: 007 is a text.
fn integer(cell: &str) -> Option<i64> {
    cell.parse().ok().filter(|number: &i64| number.to_string() == cell)
}

fn truth(cell: &str) -> Option<bool> {
    match cell {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn wrong(path: &Path, bytes: &[u8], error: &csv::Error) -> Error {
    let line = 1 + lines(&bytes[..start(bytes, error.position())]);
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells, but the first line names {expected_len} fields")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("not UTF-8 in cell {}", err.field() + 1),
        _ => error.to_string(),
    };
    Error::line(path, line, what)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Row>> {
        rows(text.to_vec(), &Arc::from(Path::new("rows.csv")))
    }

    fn error(text: &[u8]) -> String {
        read(text).unwrap_err().to_string().strip_prefix("rows.csv").unwrap().to_string()
    }

    #[test]
    fn quotes_line_ends_and_a_bom_are_read_and_lines_are_counted() {
        let rows = read(b"\xEF\xBB\xBFtext,label\r\n\"a, \"\"b\"\"\nc\",1\r\n\r\nd,0\r\n").unwrap();
        assert_eq!(rows.iter().map(Row::place).collect::<Vec<_>>(), ["rows.csv:2", "rows.csv:5"]);
        assert_eq!(rows[0].fields["text"], json!("a, \"b\"\nc"));
        assert_eq!(rows[1].fields["label"], json!(0));
    }

    #[test]
    fn a_column_has_one_type() {
        let rows = read(b"a,b,c,d\n1,007,True,x\n-2,8,false,3\n,,,\n").unwrap();
        let columns = |row: &Row| ["a", "b", "c", "d"].map(|name| row.fields[name].clone());
        assert_eq!(columns(&rows[0]), [json!(1), json!("007"), json!(true), json!("x")]);
        assert_eq!(columns(&rows[1]), [json!(-2), json!("8"), json!(false), json!("3")]);
        assert_eq!(columns(&rows[2]), [json!(null), json!(null), json!(null), json!(null)]);
    }

    #[test]
    fn a_record_of_another_length_and_a_doubled_name_are_refused() {
        assert_eq!(error(b"a,b\n1,2\n3\n"), ":3: 1 cells, but the first line names 2 fields");
        assert_eq!(error(b"a,b,a\n1,2,3\n"), ":1: two fields have the name `a`");
        assert_eq!(error(b"a,b\n1,\xFF\n"), ":2: not UTF-8 in cell 2");
    }
}
