//! Files that are compressed as a whole, by gzip (RFC 1952) or zstd (RFC 8878).

use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// Endings of compressed files.
pub const ENDINGS: [&str; 3] = [".gz", ".zst", ".zstd"];

const GZIP: &[u8] = b"\x1F\x8B";
const ZSTD: &[u8] = b"\x28\xB5\x2F\xFD";

/// Most bytes that a compressed file may become, so that a small hostile file cannot fill the memory.
const MOST: u64 = 8 << 30;

/// The bytes of a file: unpacked if they are compressed, as they are otherwise.
///
/// # Errors
/// A compressed file that is damaged or cut short, or becomes larger than 8 GiB.
pub fn unpacked(bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    if bytes.starts_with(GZIP) {
        return read(MultiGzDecoder::new(bytes.as_slice()), path, "gzip");
    }
    if bytes.starts_with(ZSTD) {
        let decoder =
            zstd::Decoder::with_buffer(bytes.as_slice()).map_err(|error| damaged(path, "zstd", &error))?;
        return read(decoder, path, "zstd");
    }
    Ok(bytes)
}

fn read(decoder: impl Read, path: &Path, kind: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    decoder.take(MOST + 1).read_to_end(&mut out).map_err(|error| damaged(path, kind, &error))?;
    if out.len() as u64 > MOST {
        return Err(Error::invalid(
            format!("{}: more than {} GiB when unpacked", path.display(), MOST >> 30),
            "split the file into several",
        ));
    }
    Ok(out)
}

fn damaged(path: &Path, kind: &str, error: &io::Error) -> Error {
    Error::damaged(path, format!("the {kind} file is damaged or cut short: {error}"))
}
