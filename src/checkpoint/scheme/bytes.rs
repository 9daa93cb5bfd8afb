//! What schemes have in common in their tensors' bytes.

use rayon::prelude::*;

use super::super::shards::Tensor;
use crate::quant::FloatType;

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
    let mut bytes = vec![0; size_of_val(words)];
    bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
    bytes
}

/// `[rows, columns]` → `[columns, rows]`, row-major both.
pub fn transpose<T: Copy + Default + Send + Sync>(values: &[T], rows: usize) -> Vec<T> {
    /// Columns that are taken at a time: what is read is used at once, not when it has left the cache.
    const COLUMNS: usize = 16;
    let rows = rows.max(1);
    let columns = (values.len() / rows).max(1);
    let mut transposed = vec![T::default(); values.len()];
    transposed.par_chunks_mut(rows * COLUMNS).enumerate().for_each(|(part, to)| {
        let width = to.len() / rows;
        for (row, from) in values.chunks_exact(columns).enumerate() {
            for (column, value) in from[part * COLUMNS..][..width].iter().enumerate() {
                to[column * rows + row] = *value;
            }
        }
    });
    transposed
}
