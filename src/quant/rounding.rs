//! Matrices that are rounded while their rows arrive.

use std::ops::Range;

use rayon::prelude::*;

use super::coding::{self, CodeLevels, Coded, DenseMatrix};
use super::grid::GroupScale;
use super::options::QuantOptions;
use super::pack::pack;
use crate::device::host;
use crate::error::{Error, Result};
use crate::packed::{PackedWeight, words_per_row};

/// [`super::quantize`] for a matrix whose rows arrive one after the other, so that it is never in memory as a whole.
pub struct Rounding {
    shape: [usize; 2],
    options: QuantOptions,
    levels: CodeLevels,
    codes: Vec<u32>,
    groups: Vec<GroupScale>,
    /// Rows that have arrived.
    rows: usize,
}

impl Rounding {
    /// # Errors
    /// As [`super::quantize`]; levels that are learned from all rows.
    pub fn new(shape: [usize; 2], options: QuantOptions) -> Result<Self> {
        let group_size = options.group_size_of(shape)?;
        let levels = options.fixed_levels().ok_or_else(|| {
            Error::invalid(
                "a codebook is learned from all rows at once",
                "use --calibration, or --method rtn",
            )
        })?;
        let [out_features, in_features] = shape;
        let words = words_per_row(in_features, options.kind.bits());
        let mut codes = vec![0; out_features * words];
        host::prefer_huge_pages(&mut codes);
        let groups = vec![GroupScale::default(); out_features * in_features.div_ceil(group_size)];
        Ok(Self { shape, options, levels, codes, groups, rows: 0 })
    }

    /// The next `rows` rows; `weights` gives those of some of them, `[rows, in_features]`.
    ///
    /// # Errors
    /// More rows than the matrix has; a weight as in [`super::quantize`].
    pub fn push(&mut self, rows: usize, weights: &(dyn Fn(Range<usize>, &mut [f32]) + Sync)) -> Result<()> {
        /// Rows that a thread takes at a time: few enough for its cache.
        const ROWS: usize = 8;
        let [out_features, in_features] = self.shape;
        let first_row = self.rows;
        self.rows += rows;
        if self.rows > out_features {
            return Err(Error::internal(format!("{} rows of {out_features}", self.rows)));
        }
        let group_size = self.options.group_size.unwrap_or(in_features);
        let (words, groups) = (self.codes.len() / out_features, self.groups.len() / out_features);
        let levels = &self.levels;
        let codes = self.codes[first_row * words..self.rows * words].par_chunks_mut(ROWS * words);
        let groups = self.groups[first_row * groups..self.rows * groups].par_chunks_mut(ROWS * groups);
        let buffer = || vec![0f32; ROWS * in_features];
        codes.zip(groups).enumerate().try_for_each_init(buffer, |buffer, (part, (codes, groups))| {
            let (from, count) = (part * ROWS, codes.len() / words);
            let weight = &mut buffer[..count * in_features];
            weights(from..from + count, weight);
            let matrix = DenseMatrix { weight, in_features, group_size, first_row: first_row + from };
            coding::round(matrix, levels, codes, groups)
        })
    }

    /// # Errors
    /// Rows are missing.
    pub fn finish(self) -> Result<PackedWeight> {
        let Self { shape, options, levels, codes, groups, rows } = self;
        if rows < shape[0] {
            return Err(Error::internal(format!("{rows} rows of {}", shape[0])));
        }
        let group_size = options.group_size.unwrap_or(shape[1]);
        Ok(pack(shape, group_size, &levels, Coded { codes, groups, reordered: false }, None))
    }
}
