//! What schemes have in common in their tensors' bytes.

use rayon::prelude::*;

use super::super::shards::Tensor;
use crate::packed::FloatType;

/// The bytes of scales in f16.
pub fn f16_bytes(scales: &[f32]) -> Result<Vec<u8>, String> {
    match scales.iter().find(|scale| !FloatType::F16.round(**scale).is_finite()) {
        Some(scale) => Err(format!("the scale {scale:e} does not fit f16")),
        None => Ok(scales.iter().flat_map(|scale| half::f16::from_f32(*scale).to_le_bytes()).collect()),
    }
}

pub fn words_from(tensor: &Tensor) -> Vec<u32> {
    tensor.bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
}

pub fn word_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().map(|word| word.to_le_bytes()).collect::<Vec<_>>().into_flattened()
}

/// `[rows, columns]` → `[columns, rows]`, row-major both, each value as `convert` gives it.
pub fn transpose<T: Copy + Sync, U: Copy + Default + Send>(
    values: &[T],
    rows: usize,
    convert: impl Fn(T) -> U + Sync,
) -> Vec<U> {
    /// Rows and columns of a tile: what a cache line holds of words. Lines of the result are written whole, since
    /// those of a wide matrix are so far apart that few of them stay in the cache together.
    const TILE: usize = 16;
    let rows = rows.max(1);
    let columns = (values.len() / rows).max(1);
    let mut transposed = vec![U::default(); values.len()];
    transposed.par_chunks_mut(rows * TILE).enumerate().for_each(|(part, to)| {
        let width = to.len() / rows;
        for first in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - first);
            // By rows first: so many reads of memory at once are no more than one to wait for.
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
