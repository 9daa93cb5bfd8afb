//! Long texts, tokenized in pieces: a tokenizer takes a hundred times as much memory as its text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::tokenizer::{Tokenizer, failed};
use crate::error::{Error, Result};

/// Bytes that are tokenized together, about.
const PIECE: usize = 1 << 16;

/// Bytes that a piece shares with the one before it, so that a cut can be put where both have the same tokens.
const OVERLAP: usize = 1 << 10;

/// How many tokens in a row two pieces must have in common before the text is cut among them.
const AGREED: usize = 8;

/// A piece without a cut grows up to this many bytes.
const LARGEST_PIECE: usize = 1 << 20;

/// Tokenizes a text that is given in parts. The tokens are those of the whole text, without special tokens.
pub struct LongText<'t> {
    tokenizer: &'t tokenizers::Tokenizer,
    /// Text whose tokens are not final yet, after some whose tokens are.
    text: String,
    /// Bytes at the start of `text` whose tokens are final.
    settled: usize,
    tokens: Vec<u32>,
    /// Bytes of text after which the next tokens are made final.
    piece: usize,
}

/// Where a token is in a text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placed {
    id: u32,
    start: usize,
    end: usize,
}

impl<'t> LongText<'t> {
    pub fn new(tokenizer: &'t tokenizers::Tokenizer) -> Self {
        Self { tokenizer, text: String::new(), settled: 0, tokens: Vec::new(), piece: PIECE }
    }

    /// Takes more of the text.
    pub fn push(&mut self, text: &str) -> Result<()> {
        let mut rest = text;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.ceil_char_boundary(PIECE.min(rest.len())));
            self.text.push_str(now);
            rest = later;
            if self.text.len() > self.settled + self.piece + OVERLAP {
                self.settle()?;
            }
        }
        Ok(())
    }

    /// The final tokens so far: those of all but the end of the text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// All tokens: the text ends here.
    pub fn finish(mut self) -> Result<Vec<u32>> {
        let placed = self.placed(0)?;
        self.tokens.extend(from(&placed, self.settled).iter().map(|token| token.id));
        Ok(self.tokens)
    }

    /// Makes the tokens up to a cut final. The cut is near the end of the text, where tokenizing from a later start gives
    /// the same tokens.
    fn settle(&mut self) -> Result<()> {
        let overlap = self.text.floor_char_boundary(self.text.len() - 2 * OVERLAP);
        let (whole, tail) = (self.placed(0)?, self.placed(overlap)?);
        let cut = match common_run(from(&whole, overlap), &tail) {
            Some(run) => run,
            None if self.text.len() < LARGEST_PIECE => {
                self.piece *= 2;
                return Ok(());
            }
            // One letter without end, say: any cut is as good.
            None => from(&whole, overlap).first().map_or(overlap, |token| token.start),
        };
        let settled = from(&whole, self.settled).iter().take_while(|token| token.start < cut);
        self.tokens.extend(settled.map(|token| token.id));
        self.text.drain(..overlap);
        self.settled = cut - overlap;
        self.piece = PIECE;
        Ok(())
    }

    /// The tokens of the text from a byte on, in order.
    fn placed(&self, start: usize) -> Result<Vec<Placed>> {
        let encoding =
            self.tokenizer.encode(&self.text[start..], false).map_err(|e| failed("tokenizing", &e))?;
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(ids.map(|(&id, &(from, to))| Placed { id, start: start + from, end: start + to }).collect())
    }
}

/// The tokens from a byte on.
fn from(tokens: &[Placed], start: usize) -> &[Placed] {
    &tokens[tokens.partition_point(|token| token.start < start)..]
}

/// The start of a token in the middle of the longest run of tokens that both lists have.
fn common_run(one: &[Placed], other: &[Placed]) -> Option<usize> {
    let (mut i, mut j, mut length, mut best) = (0, 0, 0, (0, 0));
    while let (Some(a), Some(b)) = (one.get(i), other.get(j)) {
        if a == b {
            length += 1;
            best = best.max((length, i + 1));
            (i, j) = (i + 1, j + 1);
        } else {
            length = 0;
            match (a.start, a.end).cmp(&(b.start, b.end)) {
                std::cmp::Ordering::Less => i += 1,
                std::cmp::Ordering::Greater => j += 1,
                std::cmp::Ordering::Equal => (i, j) = (i + 1, j + 1),
            }
        }
    }
    let (length, end) = best;
    let run = &one[end - length..end];
    // Bytes of one character are tokens at one place: not there.
    let middle =
        run.windows(2).skip(length / 2 - usize::from(length > 1)).find(|pair| pair[0].end <= pair[1].start);
    middle.filter(|_| length >= AGREED).map(|pair| pair[1].start)
}

/// Whether a text begins with a JSON object on a line of its own.
fn is_json_line(text: &str) -> bool {
    let line = text.trim_start_matches('\u{feff}').lines().find(|line| !line.trim().is_empty());
    line.is_some_and(|line| serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(line).is_ok())
}

/// The tokens of a text file without special tokens and without a byte-order mark. With `most`, reading may stop once
/// there are that many tokens.
///
/// # Errors
/// A file that cannot be read, or is not UTF-8.
pub fn tokens_of_file(path: &Path, tokenizer: &Tokenizer, most: Option<usize>) -> Result<Vec<u32>> {
    let mut file = File::open(path).map_err(Error::io(path, "reading"))?;
    let mut long = LongText::new(tokenizer.inner());
    let (mut buffer, mut bytes, mut before) = (vec![0; PIECE], Vec::new(), 0);
    loop {
        let count = file.read(&mut buffer).map_err(Error::io(path, "reading"))?;
        bytes.extend_from_slice(&buffer[..count]);
        let valid = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            // A character that the next read ends.
            Err(error) if error.error_len().is_none() && count > 0 => error.valid_up_to(),
            Err(error) => {
                let at = before + error.valid_up_to();
                return Err(Error::invalid(
                    format!("{}: not UTF-8, from byte {at} on", path.display()),
                    "a text is UTF-8; convert it, for example with iconv",
                ));
            }
        };
        if before == 0 && valid < 3 && count > 0 {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes[..valid]);
        if before == 0 && is_json_line(&text) {
            tracing::warn!(
                "{}: looks like JSONL and is read as plain text, names of fields included; calibration reads the `text` of \
                 each row where the name ends in .jsonl",
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

#[cfg(test)]
mod tests;
