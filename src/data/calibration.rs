//! Samples for calibration: windows of a text that do not overlap, drawn at random.

use std::path::Path;

use super::sampling::batch_indices;
use super::source::{Dataset, has_rows};
use super::text_file::tokens_of_file;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// Draws `samples` windows of `length` tokens each by `seed`; fewer if the text has no more.
///
/// A dataset, as a `.jsonl` file, has a `text` in every row; another file is one text.
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
    let tokens = match has_rows(path) {
        true => {
            let mut tokens = Vec::new();
            for row in &Dataset::read(path)?.rows {
                tokens.extend(tokenizer.encode(row.text("text")?, false)?);
            }
            tokens
        }
        false => tokens_of_file(path, tokenizer, None)?,
    };
    // The special tokens that begin a text begin every window, too.
    let [before, _] = tokenizer.around()?;
    let windows: Vec<&[u32]> = tokens.chunks_exact(length.saturating_sub(before.len()).max(1)).collect();
    if windows.is_empty() {
        return Err(Error::invalid(
            format!("{}: {} tokens, less than one window of {length}", path.display(), tokens.len()),
            "use a longer text, or a smaller --calibration-length",
        ));
    }
    let mut drawn = batch_indices(seed, 0, samples.min(windows.len()), windows.len());
    // The order of the text is as good as any and shows which windows were drawn.
    drawn.sort_unstable();
    Ok(drawn.into_iter().map(|window| [&before, windows[window]].concat()).collect())
}
