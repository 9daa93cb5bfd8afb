//! From weights to codes, row by row: each to its nearest level, or with GPTQ's error feedback, where the
//! error of a feature is passed on to the features that are still to come (Frantar et al. 2022, algorithm 1;
//! for vectors: van Baalen et al. 2024, GPTVQ, <https://arxiv.org/abs/2402.15319>).
//!
//! Rows are independent. A thread takes some of them through all features, a block at a time; the errors of a block
//! reach the features behind it by one product of matrices.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::book::{Book, EntrySearch, ErrorMetric};
use super::grid::{Grid, GroupScale};
use super::hessian::HessianFactor;
use crate::error::{Error, Result};
use crate::packed::{put_code, put_codes, words_per_row};

/// Help for a weight that no scale fits.
pub const BAD_WEIGHT: &str = "the checkpoint holds a weight that cannot be quantized; fetch it again, or use \
                          another one if its author's file has the same value";

/// Rows that a thread takes at a time.
const ROWS: usize = 32;

/// Features after which their errors are passed on to the rest of a row. A block holds whole groups, or a group begins
/// with a block: its scale has to be fitted to weights that have already received the errors before them.
const BLOCK: usize = 128;

/// The values that codes stand for before the scale multiplies them.
pub enum CodeLevels {
    Grid(Grid),
    Book(Book),
}

/// A matrix to be coded.
#[derive(Clone, Copy)]
pub struct DenseMatrix<'a> {
    /// `[out_features × in_features]`
    pub weight: &'a [f32],
    pub in_features: usize,
    pub group_size: usize,
    /// The number of its first row in the whole weight.
    pub first_row: usize,
}

/// Source of the groups' scales.
#[derive(Clone, Copy)]
pub enum GroupSource<'a> {
    /// Fitted when a group is reached, to its weights with the errors passed on so far.
    Fitted,
    /// Fitted to the original weights.
    Static,
    /// `[out_features × groups]`
    Given(&'a [GroupScale]),
}

/// Codes as [`crate::packed`] draws them.
pub struct Coded {
    pub codes: Vec<u32>,
    /// `[out_features × groups]`
    pub groups: Vec<GroupScale>,
    /// Whether codes and groups are in the factor's order of features instead of the model's.
    pub reordered: bool,
}

impl DenseMatrix<'_> {
    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    pub fn out_features(&self) -> usize {
        self.weight.len() / self.in_features
    }

    pub fn shape(&self) -> [usize; 2] {
        [self.out_features(), self.in_features]
    }
}

impl CodeLevels {
    fn width(&self) -> usize {
        match self {
            Self::Grid(_) => 1,
            Self::Book(book) => book.width,
        }
    }

    fn bits(&self) -> u32 {
        match self {
            Self::Grid(grid) => grid.bits,
            Self::Book(book) => book.bits,
        }
    }

    fn fit(&self, weights: &[f64], importance: Option<&[f64]>) -> Result<GroupScale, String> {
        match self {
            Self::Grid(grid) => grid.fit(weights, importance),
            Self::Book(book) => book.fit(weights),
        }
    }
}

/// Codes a matrix: with the factor's error feedback, or each weight to its nearest level.
///
/// # Errors
/// A group that cannot be fitted, named by its row and number.
pub fn code(
    matrix: DenseMatrix<'_>,
    levels: &CodeLevels,
    factor: Option<&HessianFactor>,
    groups: GroupSource<'_>,
) -> Result<Coded> {
    let (n, out) = (matrix.in_features, matrix.out_features());
    let words = words_per_row(n / levels.width(), levels.bits());
    let order: Vec<usize> = factor.map_or_else(|| (0..n).collect(), |factor| factor.order.clone());
    let reordered = matches!(groups, GroupSource::Fitted) && !order.is_sorted();
    let mut codes = vec![0u32; out * words];
    let mut fitted = match groups {
        GroupSource::Given(groups) => groups.to_vec(),
        GroupSource::Fitted | GroupSource::Static => vec![GroupScale::default(); out * matrix.groups()],
    };
    let importance = factor.map(HessianFactor::importance);
    let coder = Coder { matrix, levels, factor, groups, order, reordered, words, importance };
    codes
        .par_chunks_mut(ROWS * words)
        .zip(fitted.par_chunks_mut(ROWS * matrix.groups()))
        .zip(matrix.weight.par_chunks(ROWS * n))
        .enumerate()
        .try_for_each(|(chunk, ((codes, groups), weight))| {
            let coded = coder.code(weight, codes, groups);
            coded.map_err(|unfit| unfit.in_matrix(matrix.first_row + chunk * ROWS))
        })?;
    Ok(Coded { codes, groups: fitted, reordered })
}

/// Codes a matrix to its nearest levels on this thread alone, into `codes`, which are zero, and `groups`.
///
/// # Errors
/// As in [`code`].
pub fn round(
    matrix: DenseMatrix<'_>,
    levels: &CodeLevels,
    codes: &mut [u32],
    groups: &mut [GroupScale],
) -> Result<()> {
    let words = words_per_row(matrix.in_features / levels.width(), levels.bits());
    let order = match levels {
        CodeLevels::Grid(_) => vec![],
        CodeLevels::Book(_) => (0..matrix.in_features).collect(),
    };
    let reordered = false;
    let coder = Coder {
        matrix,
        levels,
        factor: None,
        groups: GroupSource::Fitted,
        order,
        reordered,
        words,
        importance: None,
    };
    coder.code(matrix.weight, codes, groups).map_err(|unfit| unfit.in_matrix(matrix.first_row))
}

struct Coder<'a> {
    matrix: DenseMatrix<'a>,
    levels: &'a CodeLevels,
    factor: Option<&'a HessianFactor>,
    groups: GroupSource<'a>,
    order: Vec<usize>,
    reordered: bool,
    words: usize,
    /// Cost of an error in each feature, in the model's order.
    importance: Option<Vec<f64>>,
}

struct Unfit {
    row: usize,
    group: usize,
    what: String,
}

impl Unfit {
    fn in_matrix(self, first_row: usize) -> Error {
        let Self { row, group, what } = self;
        Error::invalid(format!("row {}, group {group}: {what}", first_row + row), BAD_WEIGHT)
    }
}

impl Coder<'_> {
    fn code(&self, weight: &[f32], codes: &mut [u32], groups: &mut [GroupScale]) -> Result<(), Unfit> {
        if let (CodeLevels::Grid(grid), None) = (self.levels, self.factor) {
            return self.code_nearest(grid, weight, codes, groups);
        }
        let (n, width) = (self.matrix.in_features, self.levels.width());
        let mut weights: Vec<f64> = weight
            .chunks_exact(n)
            .flat_map(|row| self.order.iter().map(|&feature| self.alive(row, feature)))
            .collect();
        if matches!(self.groups, GroupSource::Static) {
            let (size, natural) = (self.matrix.group_size, &self.importance);
            for (row, (weight, groups)) in
                weight.chunks_exact(n).zip(groups.chunks_exact_mut(self.matrix.groups())).enumerate()
            {
                let weight: Vec<f64> = (0..n).map(|feature| self.alive(weight, feature)).collect();
                for (g, (group, weight)) in
                    groups.iter_mut().zip(weight.chunks(self.matrix.group_size)).enumerate()
                {
                    let importance = natural.as_ref().map(|i| &i[g * size..g * size + weight.len()]);
                    *group =
                        self.levels.fit(weight, importance).map_err(|what| Unfit { row, group: g, what })?;
                }
            }
        }
        let mut search = EntrySearch::default();
        let mut errors = vec![];
        let mut start = 0;
        while start < n {
            let end = self.block_end(start);
            errors.clear();
            errors.resize(weights.len() / n * (end - start), 0.0);
            for place in (start..end).step_by(width) {
                if matches!(self.groups, GroupSource::Fitted) && place.is_multiple_of(self.matrix.group_size)
                {
                    self.fit(place, &weights, groups)?;
                }
                self.code_place(place, start..end, &mut weights, &mut errors, (codes, groups), &mut search);
            }
            self.pass_on(start..end, &mut weights, &errors);
            start = end;
        }
        Ok(())
    }

    /// Codes to integers without feedback, where the weights of a row do not depend on each other either.
    fn code_nearest(
        &self,
        grid: &Grid,
        weight: &[f32],
        codes: &mut [u32],
        groups: &mut [GroupScale],
    ) -> Result<(), Unfit> {
        let DenseMatrix { in_features: n, group_size: size, .. } = self.matrix;
        let mut levels = vec![0u8; size];
        let rows = weight
            .chunks_exact(n)
            .zip(codes.chunks_exact_mut(self.words))
            .zip(groups.chunks_exact_mut(self.matrix.groups()));
        for (row, ((weight, codes), groups)) in rows.enumerate() {
            for (g, (group, weight)) in groups.iter_mut().zip(weight.chunks(size)).enumerate() {
                if !matches!(self.groups, GroupSource::Given(_)) {
                    *group = grid.fit_floats(weight).map_err(|what| Unfit { row, group: g, what })?;
                }
                let levels = &mut levels[..weight.len()];
                grid.codes(weight, *group, levels);
                put_codes(codes, g * size, grid.bits, levels);
            }
        }
        Ok(())
    }

    fn alive(&self, row: &[f32], feature: usize) -> f64 {
        let dead = self.factor.is_some_and(|factor| factor.dead[feature]);
        if dead { 0.0 } else { f64::from(row[feature]) }
    }

    fn block_end(&self, start: usize) -> usize {
        let (n, group) = (self.matrix.in_features, self.matrix.group_size);
        let end = match group <= BLOCK {
            true => start + BLOCK / group * group,
            false => (start + BLOCK).min((start / group + 1) * group),
        };
        end.min(n)
    }

    /// Fits the group that begins at a place, in every row.
    fn fit(&self, place: usize, weights: &[f64], groups: &mut [GroupScale]) -> Result<(), Unfit> {
        let (n, group) = (self.matrix.in_features, place / self.matrix.group_size);
        let end = (place + self.matrix.group_size).min(n);
        let importance = self.importance.as_ref();
        let importance: Option<Vec<f64>> =
            importance.map(|i| self.order[place..end].iter().map(|&feature| i[feature]).collect());
        for (row, (weights, groups)) in
            weights.chunks_exact(n).zip(groups.chunks_exact_mut(self.matrix.groups())).enumerate()
        {
            groups[group] = self
                .levels
                .fit(&weights[place..end], importance.as_deref())
                .map_err(|what| Unfit { row, group, what })?;
        }
        Ok(())
    }

    /// Codes one place of every row and feeds the error back within the block.
    fn code_place(
        &self,
        place: usize,
        block: std::ops::Range<usize>,
        weights: &mut [f64],
        errors: &mut [f64],
        (codes, groups): (&mut [u32], &[GroupScale]),
        search: &mut EntrySearch,
    ) {
        let (n, width) = (self.matrix.in_features, self.levels.width());
        let stored = if self.reordered { place } else { self.order[place] };
        let group = stored / self.matrix.group_size;
        if let CodeLevels::Book(book) = self.levels {
            search.prepare(book, self.metric(place));
        }
        let rows = weights
            .chunks_exact_mut(n)
            .zip(errors.chunks_exact_mut(block.len()))
            .zip(codes.chunks_exact_mut(self.words))
            .zip(groups.chunks_exact(self.matrix.groups()));
        let mut error = [0.0; Book::WIDEST];
        for (((weights, errors), codes), groups) in rows {
            let (group, now) = (groups[group], &weights[place..place + width]);
            let code = match self.levels {
                CodeLevels::Grid(grid) => {
                    let code = grid.code(now[0], group);
                    error[0] = now[0] - grid.value(code, group);
                    code
                }
                CodeLevels::Book(book) => {
                    let code = search.nearest(book, now, group.scale);
                    for (error, (now, level)) in error.iter_mut().zip(now.iter().zip(book.entry(code))) {
                        *error = now - f64::from(group.scale) * level;
                    }
                    code
                }
            };
            put_code(codes, stored / width, self.levels.bits(), code);
            let Some(factor) = self.factor else { continue };
            factor.solve(place, &mut error[..width]);
            for (i, error) in error[..width].iter().enumerate() {
                let row = &factor.row(place + i)[place + width..block.end];
                for (weight, u) in weights[place + width..block.end].iter_mut().zip(row) {
                    *weight -= error * u;
                }
            }
            errors[place - block.start..][..width].copy_from_slice(&error[..width]);
        }
    }

    /// The cost of an error δ at a place is `‖δ·U⁻¹‖²`, where U is the factor's block there: what is left once the features
    /// behind it have compensated as far as they can.
    fn metric(&self, place: usize) -> ErrorMetric {
        let mut metric = ErrorMetric::default();
        for (i, row) in metric.iter_mut().enumerate().take(self.levels.width()) {
            row[i] = 1.0;
            if let Some(factor) = self.factor {
                factor.solve(place, &mut row[..self.levels.width()]);
            }
        }
        metric
    }

    /// Passes the errors of a block on to the features behind it.
    fn pass_on(&self, block: std::ops::Range<usize>, weights: &mut [f64], errors: &[f64]) {
        let n = self.matrix.in_features;
        let (Some(factor), true) = (self.factor, block.end < n) else { return };
        let rows = weights.len() / n;
        let later = MatMut::from_row_major_slice_mut(weights, rows, n).subcols_mut(block.end, n - block.end);
        let errors = MatRef::from_row_major_slice(errors, rows, block.len());
        let upper = factor.upper().submatrix(block.start, block.end, block.len(), n - block.end);
        matmul(later, Accum::Add, errors, upper, -1.0, Par::Seq);
    }
}
