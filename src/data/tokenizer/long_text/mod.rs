//! Long texts, tokenized in pieces, because a tokenizer takes a hundred times as much memory as its text.

use super::failed::failed;
use crate::error::Result;

/// Approximate size in bytes of a text that is tokenized at once.
pub const PIECE: usize = 1 << 16;

/// Bytes that a piece shares with the one before it. The cut between them lies where both have the same tokens.
const OVERLAP: usize = 1 << 10;

/// Number of tokens in a row that two pieces must have in common for a cut among them.
const AGREED: usize = 8;

/// Size in bytes up to which a piece without a cut grows.
const LARGEST_PIECE: usize = 1 << 20;

/// Tokenizes a text that is given in parts. The tokens are those of the whole text, without special tokens.
pub struct LongText<'t> {
    tokenizer: &'t tokenizers::Tokenizer,
    /// The end of the text so far: some bytes whose tokens are final, then those whose tokens are not.
    text: String,
    /// Bytes at the start of `text` whose tokens are final.
    settled: usize,
    tokens: Vec<u32>,
    /// Bytes of text after which the next tokens become final.
    piece: usize,
}

/// A token with its place in the text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PlacedToken {
    id: u32,
    start: usize,
    end: usize,
}

impl<'t> LongText<'t> {
    pub(super) fn new(tokenizer: &'t tokenizers::Tokenizer) -> Self {
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

    /// The tokens that are final so far: all but those at the end of the text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Ends the text and gives all its tokens.
    pub fn finish(mut self) -> Result<Vec<u32>> {
        let placed = self.placed(0)?;
        self.tokens.extend(from(&placed, self.settled).iter().map(|token| token.id));
        Ok(self.tokens)
    }

    /// Makes the tokens up to a cut final. The cut is near the end of the text, at a place where tokenizing from a later
    /// start gives the same tokens.
    fn settle(&mut self) -> Result<()> {
        let overlap = self.text.floor_char_boundary(self.text.len() - 2 * OVERLAP);
        let (whole, tail) = (self.placed(0)?, self.placed(overlap)?);
        let cut = match common_run(from(&whole, overlap), &tail) {
            Some(run) => run,
            None if self.text.len() < LARGEST_PIECE => {
                self.piece *= 2;
                return Ok(());
            }
            // As with one letter repeated without end: any cut is as good.
            None => from(&whole, overlap).first().map_or(overlap, |token| token.start),
        };
        let settled = from(&whole, self.settled).iter().take_while(|token| token.start < cut);
        self.tokens.extend(settled.map(|token| token.id));
        self.text.drain(..overlap);
        self.settled = cut - overlap;
        self.piece = PIECE;
        Ok(())
    }

    /// Tokenizes the text from the byte `start` on.
    fn placed(&self, start: usize) -> Result<Vec<PlacedToken>> {
        let encoding =
            self.tokenizer.encode(&self.text[start..], false).map_err(|e| failed("tokenizing", &e))?;
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(ids.map(|(&id, &(from, to))| PlacedToken { id, start: start + from, end: start + to }).collect())
    }
}

/// The tokens that begin at the byte `start` or after it.
fn from(tokens: &[PlacedToken], start: usize) -> &[PlacedToken] {
    &tokens[tokens.partition_point(|token| token.start < start)..]
}

/// Finds the longest run of tokens that both lists have; the start of a token in its middle.
fn common_run(one: &[PlacedToken], other: &[PlacedToken]) -> Option<usize> {
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
    // Byte tokens of one character have the same place; the cut is not among them.
    let middle =
        run.windows(2).skip(length / 2 - usize::from(length > 1)).find(|pair| pair[0].end <= pair[1].start);
    middle.filter(|_| length >= AGREED).map(|pair| pair[1].start)
}

#[cfg(test)]
mod tests;
