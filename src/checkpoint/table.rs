//! Rows of a matrix, in the type that a forward pass computes in.

use std::path::Path;

use bytemuck::Zeroable;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::finite;
use super::float::DenseValues;
use super::store::Store;
use crate::device::host;
use crate::error::Result;
use crate::packed::FloatType;
use crate::storage::pages;

/// Rows that are read before pages of the file are released: where a row consists of several parts, it is read from the
/// map, and the system maps sixteen pages around each.
const MAPPED_ROWS: usize = 64;

/// Rows per task of a thread.
const TASK_ROWS: usize = 8;

/// Some rows of a matrix, `[rows.len(), width]`: see [`Checkpoint::rows`](super::Checkpoint::rows).
pub fn read(
    store: &dyn Store,
    path: &Path,
    name: &str,
    rows: &[u32],
    factor: f32,
    dtype: FloatType,
) -> Result<DenseValues> {
    let width = store.shape(name)?.last().copied().unwrap_or(0).max(1);
    let table = RowTable { store, path, name, width, factor };
    Ok(match dtype {
        FloatType::F32 => DenseValues::F32(table.rows(rows, |values, to| to.copy_from_slice(values))?),
        FloatType::F16 => {
            DenseValues::F16(table.rows(rows, |values, to: &mut [f16]| to.convert_from_f32_slice(values))?)
        }
        FloatType::BF16 => DenseValues::Bf16(table.rows(rows, round_to_bf16)?),
    })
}

/// The same as `bf16::from_f32`, without branches.
fn round_to_bf16(values: &[f32], to: &mut [bf16]) {
    for (value, to) in values.iter().zip(to) {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        *to = bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16);
    }
}

struct RowTable<'a> {
    store: &'a dyn Store,
    path: &'a Path,
    name: &'a str,
    width: usize,
    factor: f32,
}

impl RowTable<'_> {
    fn rows<T: Zeroable + Send>(
        &self,
        rows: &[u32],
        round: impl Fn(&[f32], &mut [T]) + Sync,
    ) -> Result<Vec<T>> {
        let mut all = bytemuck::zeroed_vec(rows.len() * self.width);
        host::prefer_huge_pages(&mut all);
        let of = |rows: usize| rows * self.width;
        for (rows, to) in rows.chunks(MAPPED_ROWS).zip(all.chunks_mut(of(MAPPED_ROWS))) {
            let tasks = rows.par_chunks(TASK_ROWS).zip(to.par_chunks_mut(of(TASK_ROWS)));
            tasks.try_for_each_init(
                || vec![0f32; of(TASK_ROWS)],
                |values, (rows, to)| {
                    let values = &mut values[..to.len()];
                    self.store.rows_into(self.name, rows, values)?;
                    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                        let what = format!("a value of row {} is {}", rows[at / self.width], values[at]);
                        return Err(finite::not_finite(self.path, self.name, &what));
                    }
                    if self.factor != 1.0 {
                        values.iter_mut().for_each(|value| *value *= self.factor);
                    }
                    round(values, to);
                    Ok(())
                },
            )?;
            self.store.files().iter().for_each(|file| pages::release(&file.bytes));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_without_branches_gives_the_same_bits() {
        let bits =
            (0..=u16::MAX).flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| (high, low)));
        let values: Vec<f32> =
            bits.map(|(high, low): (u16, u32)| f32::from_bits(u32::from(high) << 16 | low)).collect();
        let mut got = vec![bf16::ZERO; values.len()];
        round_to_bf16(&values, &mut got);
        for (value, got) in values.iter().zip(got) {
            assert_eq!(got.to_bits(), bf16::from_f32(*value).to_bits(), "{value:e}");
        }
    }
}
