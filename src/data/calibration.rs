//! Text for calibration: tokenized piece by piece, cut into windows that do not overlap, some of them drawn.

use std::path::Path;

use super::dataset::Dataset;
use super::sampling::batch_indices;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// Bytes of text that are tokenized together, about: a tokenizer takes a hundred times as much memory.
const PIECE: usize = 1 << 16;

/// `samples` windows of `length` tokens each, drawn by `seed`; fewer where the text has no more.
///
/// A `.jsonl` file has a `text` in every row, another file is one text.
///
/// # Errors
/// A file that cannot be read, or that is shorter than one window.
pub fn windows(
    path: &Path,
    tokenizer: &Tokenizer,
    samples: usize,
    length: usize,
    seed: u64,
) -> Result<Vec<Vec<u32>>> {
    let tokens = match path.extension().is_some_and(|extension| extension == "jsonl") {
        true => {
            let mut tokens = Vec::new();
            for row in &Dataset::read(path)?.rows {
                tokens.extend(tokenizer.encode(row.text("text")?, false)?);
            }
            tokens
        }
        false => {
            let bytes = std::fs::read(path).map_err(Error::io(path, "reading the calibration text"))?;
            let text = String::from_utf8(bytes).map_err(|error| {
                let what = format!("not UTF-8, from byte {} on", error.utf8_error().valid_up_to());
                Error::damaged(path, what)
            })?;
            let mut tokens = Vec::new();
            for piece in pieces(&text) {
                tokens.extend(tokenizer.encode(piece, false)?);
            }
            tokens
        }
    };
    // What the tokenizer puts before every text stands before every window, too.
    let before = tokenizer.encode("", true)?;
    let windows: Vec<&[u32]> = tokens.chunks_exact(length.saturating_sub(before.len()).max(1)).collect();
    if windows.is_empty() {
        return Err(Error::invalid(
            format!("{}: {} tokens, less than one window of {length}", path.display(), tokens.len()),
            "use a longer text, or a smaller --calibration-length",
        ));
    }
    let mut drawn = batch_indices(seed, 0, samples.min(windows.len()), windows.len());
    // In the order of the text, which reads as well as any and shows what was drawn.
    drawn.sort_unstable();
    Ok(drawn.into_iter().map(|window| [&before, windows[window]].concat()).collect())
}

/// Cut at ends of lines, where tokenizers cut, too.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let from = rest.ceil_char_boundary(PIECE.min(rest.len()));
        let end = rest[from..].find('\n').map_or(rest.len(), |line| from + line);
        // Line ends in a row are one token in some vocabularies.
        let end = rest[end..].find(|c| c != '\n').map_or(rest.len(), |next| end + next);
        let (piece, later) = rest.split_at(end);
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text_cut_between_lines() {
        let line = "ä line of words\n\n";
        let (short, long) = (line.to_owned(), line.repeat(9000));
        for (text, expected) in [(String::new(), 0), (short, 1), (long.clone() + "end", 3), (long, 3)] {
            let cut: Vec<&str> = pieces(&text).collect();
            assert_eq!((cut.concat().as_str(), cut.len()), (text.as_str(), expected));
            for piece in cut.iter().rev().skip(1) {
                assert!(piece.ends_with("\n\n") && (PIECE..PIECE + line.len()).contains(&piece.len()));
            }
        }
        assert_eq!(pieces(&"x".repeat(3 * PIECE)).count(), 1);
    }
}
