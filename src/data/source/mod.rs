//! Datasets: the rows of files, each read by the reader of its format and unpacked first where it is compressed.
//!
//! | format | endings | rows |
//! |---|---|---|
//! | JSON | `.jsonl`, `.ndjson`, `.json` | an object a line, or one array of objects |
//! | CSV, TSV | `.csv`, `.tsv` | a record each; the first record names the fields |
//! | parquet | `.parquet` | a record each |
//!
//! Each may be compressed as a whole by gzip (`.gz`) or zstd (`.zst`). The bytes tell whether a file is compressed, and the
//! format where the name does not.
//!
//! To add a format: a file with a function of the type `Reader`, an arm in `named`, and cases in its tests.

mod csv;
mod json;
mod parquet;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::row::Row;
use crate::error::{Error, Result};

/// The name by which standard input is given.
pub const STDIN: &str = "-";

#[derive(Debug, Clone)]
pub struct Dataset {
    /// BLAKE3 of the bytes that were parsed, which binds a run to its data. It is taken while the file is read,
    /// because a pipe cannot be read again. Of several files: BLAKE3 of their digests.
    pub digest: [u8; 32],
    pub rows: Vec<Row>,
}

/// Parses the bytes of the file at a path into rows.
type Reader = fn(Vec<u8>, &Arc<Path>) -> Result<Vec<Row>>;

/// The reader that a file's name asks for; `None` if its ending names no format with rows.
fn named(path: &Path) -> Option<Reader> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let name = unpack::ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" | "json" => Some(json::rows),
        "csv" => Some(csv::rows),
        "tsv" => Some(csv::tab_separated),
        "parquet" => Some(parquet::rows),
        _ => None,
    }
}

/// Whether a file's ending says that it has rows, so that it is not one long text.
pub fn has_rows(path: &Path) -> bool {
    named(path).is_some()
}

impl Dataset {
    /// Reads every row of one file; `-` is standard input.
    ///
    /// # Errors
    /// A file that cannot be read or is not of its format, and a file without rows.
    pub fn read(path: &Path) -> Result<Self> {
        let (bytes, path) = match path == Path::new(STDIN) {
            true => (read_stdin(), Path::new("standard input")),
            false => (std::fs::read(path), path),
        };
        let bytes = bytes.map_err(Error::io(path, "reading"))?;
        let digest = *blake3::hash(&bytes).as_bytes();
        let bytes = unpack::unpacked(bytes, path)?;
        let sniffed = || if bytes.starts_with(parquet::MAGIC) { parquet::rows } else { json::rows };
        let reader = named(path).unwrap_or_else(sniffed);
        let rows = reader(bytes, &Arc::from(path))?;
        if rows.is_empty() {
            return Err(Error::invalid(format!("{}: no rows", path.display()), FORMATS));
        }
        Ok(Self { digest, rows })
    }

    /// Reads the rows of several files, in their order.
    ///
    /// # Errors
    /// Those of [`Self::read`], and no file at all.
    pub fn read_all(paths: &[PathBuf]) -> Result<Self> {
        if let [path] = paths {
            return Self::read(path);
        }
        let all = paths.iter().map(|path| Self::read(path)).collect::<Result<Vec<_>>>()?;
        let digests: Vec<[u8; 32]> = all.iter().map(|data| data.digest).collect();
        let rows: Vec<Row> = all.into_iter().flat_map(|data| data.rows).collect();
        if rows.is_empty() {
            return Err(Error::invalid("an empty list of data files", FORMATS));
        }
        Ok(Self { digest: *blake3::hash(digests.as_flattened()).as_bytes(), rows })
    }
}

/// Help for a file without rows.
pub const FORMATS: &str =
    "a dataset is JSONL (an object a line), a JSON array of objects, CSV, TSV or parquet";

fn read_stdin() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}
