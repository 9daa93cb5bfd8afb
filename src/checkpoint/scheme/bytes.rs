//! Conversions between the bytes of tensors and the numbers they hold.

use rayon::prelude::*;

use crate::checkpoint::float;
use crate::checkpoint::safetensors::{Dtype, dtype};
use crate::packed::FloatType;

/// # Errors
/// A value that the type cannot hold.
pub fn float_bytes(values: &[f32], stored: Dtype) -> Result<Vec<u8>, String> {
    let types = [FloatType::F32, FloatType::F16, FloatType::BF16];
    let float = types.into_iter().find(|float| dtype(*float) == stored);
    let float = float.ok_or_else(|| format!("{stored:?} holds no floats"))?;
    match values.iter().find(|value| !float.round(**value).is_finite()) {
        Some(value) => Err(format!("the value {value:e} does not fit {float:?}")),
        None => Ok(float::encode(float, values.iter().copied())),
    }
}

/// Little-endian words into as many numbers.
pub fn read_words(bytes: &[u8], words: &mut [u32]) {
    let stored = bytes.as_chunks().0;
    words.iter_mut().zip(stored).for_each(|(word, stored)| *word = u32::from_le_bytes(*stored));
}

pub fn words_from(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

pub fn word_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().map(|word| word.to_le_bytes()).collect::<Vec<_>>().into_flattened()
}

/// Transposes `[rows, columns]`, row-major, and converts every value.
pub fn transpose<T: Copy + Sync, U: Copy + Default + Send>(
    values: &[T],
    rows: usize,
    convert: impl Fn(T) -> U + Sync,
) -> Vec<U> {
    /// Rows and columns of a tile: the words of a cache line. Every line of the result is written as a whole, because
    /// lines of a wide matrix lie so far apart that only few of them stay in the cache together.
    const TILE: usize = 16;
    let rows = rows.max(1);
    let columns = (values.len() / rows).max(1);
    let mut transposed = vec![U::default(); values.len()];
    transposed.par_chunks_mut(rows * TILE).enumerate().for_each(|(part, to)| {
        let width = to.len() / rows;
        for first in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - first);
            // Row by row: reads of independent rows overlap, and cost no more time than one.
            let mut tile = [[U::default(); TILE]; TILE];
            for (row, tile) in tile[..height].iter_mut().enumerate() {
                let from = &values[(first + row) * columns + part * TILE..][..width];
                tile.iter_mut().zip(from).for_each(|(to, value)| *to = convert(*value));
            }
            for (column, to) in to.chunks_exact_mut(rows).enumerate() {
                let to = &mut to[first..first + height];
                to.iter_mut().zip(&tile).for_each(|(to, row)| *to = row[column]);
            }
        }
    });
    transposed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for (rows, columns) in [(1, 1), (1, 40), (40, 1), (16, 16), (33, 50), (17, 31)] {
            let values: Vec<u32> = (0..rows * columns).map(|i| i as u32).collect();
            let transposed = transpose(&values, rows, |value| value + 1);
            let expected = (0..columns).flat_map(|c| (0..rows).map(move |r| (r * columns + c) as u32 + 1));
            assert_eq!(transposed, expected.collect::<Vec<_>>(), "{rows} × {columns}");
        }
        assert!(transpose(&[0u32; 0], 0, |value| value).is_empty());
    }
}
