//! Weights that are NaN or infinite are refused wherever they are read or copied: one of them makes all results
//! useless.

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::packed::FloatType;

/// Values that are read at a time.
const PIECE: usize = 16 << 20;

impl Checkpoint {
    /// An error if `found` holds the index and value of a NaN or infinity.
    pub(super) fn expect_finite(&self, name: &str, found: Option<(usize, f32)>) -> Result<()> {
        found.map_or(Ok(()), |(at, value)| Err(self.not_finite(name, &format!("value {at} is {value}"))))
    }

    pub(super) fn not_finite(&self, name: &str, what: &str) -> Error {
        Error::invalid(
            format!("{}: tensor `{name}`: {what}", self.path().display()),
            "copy the checkpoint again; if the original is so, too, training or a conversion to f16 overflowed: use an \
             earlier checkpoint, or convert it to bf16 or f32",
        )
    }

    /// Reads all tensors that are not trained. Training itself reads only some rows of the embeddings, but the tuned copy
    /// will have them all.
    ///
    /// # Errors
    /// A value is NaN or infinite.
    pub fn check_finite(&self) -> Result<()> {
        let trained = self.trained_names();
        let tables = [Some(self.config.embed_tokens()), self.config.embed_positions()];
        for (name, shape) in self.config.tensors() {
            match shape[..] {
                _ if trained.binary_search(&name).is_ok() => {}
                [height, width] if tables.contains(&name.strip_suffix(".weight")) => {
                    let rows: Vec<u32> = (0..height as u32).collect();
                    for rows in rows.chunks((PIECE / width.max(1)).max(1)) {
                        self.rows(&name, rows, 1.0, FloatType::F32)?;
                    }
                }
                [_, _] => drop(self.weight(&name)?),
                _ => drop(self.dense(&name)?),
            }
            self.release();
        }
        Ok(())
    }
}
