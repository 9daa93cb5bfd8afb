//! Text for calibration: cut into windows that do not overlap, some of them drawn.

use std::path::Path;

use super::dataset::Dataset;
use super::long_text::tokens_of_file;
use super::sampling::batch_indices;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

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
        false => tokens_of_file(path, tokenizer, None)?,
    };
    // What the tokenizer puts before every text stands before every window, too.
    let [before, _] = tokenizer.around()?;
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
