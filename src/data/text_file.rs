//! A text file as tokens, read and tokenized in pieces.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::tokenizer::{PIECE, Tokenizer};
use crate::error::{Error, Result};

/// The tokens of a text file, without special tokens and without a byte-order mark. With `most`, reading may stop once
/// there are that many tokens.
///
/// # Errors
/// A file that cannot be read or is not UTF-8.
pub fn tokens_of_file(path: &Path, tokenizer: &Tokenizer, most: Option<usize>) -> Result<Vec<u32>> {
    let mut file = File::open(path).map_err(Error::io(path, "reading"))?;
    let mut long = tokenizer.long_text();
    let (mut buffer, mut bytes, mut before) = (vec![0; PIECE], Vec::new(), 0);
    loop {
        let count = file.read(&mut buffer).map_err(Error::io(path, "reading"))?;
        bytes.extend_from_slice(&buffer[..count]);
        let valid = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            // The next read brings the rest of the character.
            Err(error) if error.error_len().is_none() && count > 0 => error.valid_up_to(),
            Err(error) => {
                let at = before + error.valid_up_to();
                return Err(Error::invalid(
                    format!("{}: not UTF-8, from byte {at} on", path.display()),
                    "convert the text to UTF-8, for example with iconv",
                ));
            }
        };
        if before == 0 && valid < 3 && count > 0 {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes[..valid]);
        if before == 0 && is_json_line(&text) {
            tracing::warn!(
                "{}: looks like JSONL but is read as plain text, including the names of fields; calibration reads the \
                 `text` of each row if the name ends in .jsonl",
                path.display()
            );
        }
        long.push(if before == 0 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text })?;
        before += valid;
        bytes.drain(..valid);
        if count == 0 || most.is_some_and(|most| long.tokens().len() >= most) {
            break;
        }
    }
    long.finish()
}

/// Whether the first line of a text that is not blank is a JSON object.
fn is_json_line(text: &str) -> bool {
    let line = text.trim_start_matches('\u{feff}').lines().find(|line| !line.trim().is_empty());
    line.is_some_and(|line| serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(line).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::for_tests;

    #[test]
    fn a_file_is_read_as_far_as_needed_and_without_its_byte_order_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.txt");
        let tokenizer = for_tests("llama-bpe");
        let text = "the film wasn't 1984\nnaïve 電影 ".repeat(PIECE / 2);
        for mark in ["", "\u{feff}"] {
            std::fs::write(&path, format!("{mark}{text}")).unwrap();
            let all = tokens_of_file(&path, &tokenizer, None).unwrap();
            assert!(all == tokenizer.encode(&text, false).unwrap());
            let some = tokens_of_file(&path, &tokenizer, Some(1000)).unwrap();
            assert!((1000..all.len() / 4).contains(&some.len()), "{} of {}", some.len(), all.len());
            // The last ones may differ, because the text was cut there.
            assert_eq!(some[..1000], all[..1000]);
        }
        for (bytes, at) in [(&b"ab\xff"[..], 2), (b"abc\xe2\x82", 3), (b"\xff", 0)] {
            std::fs::write(&path, bytes).unwrap();
            let error = tokens_of_file(&path, &tokenizer, None).unwrap_err().to_string();
            assert!(error.ends_with(&format!("text.txt: not UTF-8, from byte {at} on")), "{error}");
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(tokens_of_file(&path, &tokenizer, None).unwrap(), [0u32; 0]);
    }
}
