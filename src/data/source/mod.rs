//! Datasets: the rows of a file, read by the reader of its format.
//!
//! To add a format: a file with a function of the type `Reader`, an arm in `reader`, and cases in its tests.

mod jsonl;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::row::Row;
use crate::error::{Error, Result};

#[derive(Debug, Clone)]
pub struct Dataset {
    pub path: PathBuf,
    /// BLAKE3 of the bytes that were parsed, which binds a run to its data. It is taken while the file is read,
    /// because a pipe cannot be read again.
    pub digest: [u8; 32],
    pub rows: Vec<Row>,
}

/// Parses the bytes of the file at a path into rows.
type Reader = fn(&[u8], &Arc<Path>) -> Result<Vec<Row>>;

/// The reader for a file's ending; `None` if the ending names no format with rows.
fn reader(path: &Path) -> Option<Reader> {
    match path.extension()?.to_str()? {
        "jsonl" => Some(jsonl::rows),
        _ => None,
    }
}

/// Whether a file's ending says that it has rows, so that it is not one long text.
pub fn has_rows(path: &Path) -> bool {
    reader(path).is_some()
}

impl Dataset {
    /// Reads every row of `path`. A file whose ending names no format, such as a pipe, is read as JSONL.
    ///
    /// # Errors
    /// A file that cannot be read or is not of its format, and a file without rows.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
        let rows = reader(path).unwrap_or(jsonl::rows)(&bytes, &Arc::from(path))?;
        if rows.is_empty() {
            return Err(Error::invalid(
                format!("{}: no rows", path.display()),
                "a dataset is a JSONL file: one JSON object a line",
            ));
        }
        Ok(Self { path: path.to_path_buf(), digest: *blake3::hash(&bytes).as_bytes(), rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let error = Dataset::read(Path::new("/nowhere/train.jsonl")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/train.jsonl: reading: "), "{error}");
    }

    #[test]
    fn a_file_of_another_ending_is_read_as_jsonl() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["rows.jsonl", "rows.txt", "rows"] {
            let path = dir.path().join(name);
            std::fs::write(&path, "{\"a\": 1}").unwrap();
            assert_eq!(Dataset::read(&path).unwrap().rows.len(), 1);
            assert_eq!(has_rows(&path), name == "rows.jsonl");
        }
    }
}
