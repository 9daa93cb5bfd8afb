//! One matrix → a packed weight. Knows no file, no model and no device.
//!
//! ```text
//! config    the settings of a run: which method, how many bits
//! grid      integer levels: scale and zero point of a group
//! book      levels or vectors of a codebook; learn fits one to a weight
//! hessian   what calibration says: the factor of GPTQ's error feedback
//! coding    weights → codes, with that feedback or to the nearest
//! ```
//!
//! To add a quantizer: its levels as a variant of `coding::Levels`, and a [`Method`] that names them.

mod book;
mod coding;
pub mod config;
mod grid;
mod hessian;
mod learn;
#[cfg(test)]
mod tests;

pub use book::NF4;
pub use config::{CALIBRATION_LENGTH, Method, QuantizeConfig};

use std::ops::Range;

use book::Book;
use coding::{Coded, Groups, Levels, Matrix};
use grid::{Grid, Group};
use hessian::{Factor, Ordering};
use rayon::prelude::*;

use crate::device::host;
use crate::error::{Error, Result};
use crate::packed::{
    Codebook, FloatType, Levels as PackedLevels, LevelsKind, PackedLayout, PackedWeight, words_per_row,
};

const BAD_WEIGHT: &str = "the checkpoint holds a weight that cannot be quantized; fetch it again, or use \
                          another one if its author's file has the same value";

/// How a matrix is quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub kind: Kind,
    /// Input features per group; `None`: one group per row. The last group of a row may be short.
    pub group_size: Option<usize>,
    /// What the file will hold.
    pub scale_dtype: FloatType,
    /// Used where there is a Gram matrix.
    pub feedback: Feedback,
}

/// What codes stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// 2, 3, 4 or 8 bits. `mse`: search each group's range.
    Integer { bits: u32, symmetric: bool, mse: bool },
    /// The 16 quantiles of a normal distribution.
    NormalFloat,
    /// A codebook for this weight alone, of `2^bits` vectors of `width`.
    Learned { bits: u32, width: usize },
}

/// How GPTQ goes through a matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feedback {
    /// Share of the mean diagonal that is added to the Hessian; it grows until the Cholesky works.
    pub damping: f64,
    /// The features with the largest inputs first.
    pub act_order: bool,
    /// Groups and their scales as without `act_order`, fitted before anything is quantized. Always so with
    /// codebooks, whose formats keep no other groups.
    pub static_groups: bool,
}

impl Default for Feedback {
    fn default() -> Self {
        // Ten times GPTQ's own: less fits the calibration text better and most layers worse on another text,
        // measured in benches/README.md.
        Self { damping: 0.1, act_order: false, static_groups: false }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::Integer { bits: 4, symmetric: true, mse: false },
            group_size: Some(128),
            scale_dtype: FloatType::F16,
            feedback: Feedback::default(),
        }
    }
}

/// Share of the outputs' energy on the calibration text that is lost: `‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖²`, over some of
/// the rows.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct OutputError {
    /// Were every weight rounded to the nearest level.
    pub nearest: f64,
    pub feedback: f64,
}

/// Rounds every weight of a dense matrix to the nearest level, without calibration.
///
/// # Shapes
/// `weight`: `[out_features, in_features]`, row-major f32; `shape` says both.
///
/// # Errors
/// Options that contradict themselves or the shape; a length that is not the shape's; a weight that is NaN
/// or infinite; a scale that does not fit `scale_dtype`.
pub fn quantize(weight: &[f32], shape: [usize; 2], options: Options) -> Result<PackedWeight> {
    nearest(check(weight, shape, options)?, options)
}

/// As [`quantize`], of a matrix whose rows come one after the other and are nowhere in memory as a whole.
pub struct Rounding {
    shape: [usize; 2],
    options: Options,
    levels: Levels,
    codes: Vec<u32>,
    groups: Vec<Group>,
    /// Rows that came.
    rows: usize,
}

impl Rounding {
    /// # Errors
    /// As [`quantize`]; levels that are learned from all rows.
    pub fn new(shape: [usize; 2], options: Options) -> Result<Self> {
        let group_size = check_options(shape, options)?;
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
        let groups = vec![Group::default(); out_features * in_features.div_ceil(group_size)];
        Ok(Self { shape, options, levels, codes, groups, rows: 0 })
    }

    /// The next `rows` rows; `weights` gives those of some of them, `[rows, in_features]`.
    ///
    /// # Errors
    /// More rows than the matrix has; a weight as in [`quantize`].
    pub fn push(&mut self, rows: usize, weights: &(dyn Fn(Range<usize>, &mut [f32]) + Sync)) -> Result<()> {
        /// Rows that a thread takes at a time: what stays close to it.
        const ROWS: usize = 8;
        let [out_features, in_features] = self.shape;
        let first_row = self.rows;
        self.rows += rows;
        if self.rows > out_features {
            return Err(Error::invalid(format!("{} rows of {out_features}", self.rows), ""));
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
            let matrix = Matrix { weight, in_features, group_size, first_row: first_row + from };
            coding::round(matrix, levels, codes, groups)
        })
    }

    /// # Errors
    /// Rows are missing.
    pub fn finish(self) -> Result<PackedWeight> {
        let Self { shape, options, levels, codes, groups, rows } = self;
        if rows < shape[0] {
            return Err(Error::invalid(format!("{rows} rows of {}", shape[0]), ""));
        }
        let group_size = options.group_size.unwrap_or(shape[1]);
        Ok(pack(shape, group_size, &levels, Coded { codes, groups, reordered: false }, None))
    }
}

fn nearest(matrix: Matrix<'_>, options: Options) -> Result<PackedWeight> {
    let (levels, groups) = options.levels(matrix, &vec![1.0; matrix.in_features])?;
    let coded = coding::code(matrix, &levels, None, groups.as_deref().map_or(Groups::Fitted, Groups::Given))?;
    Ok(pack(matrix.shape(), matrix.group_size, &levels, coded, None))
}

/// Quantizes a dense matrix so that its outputs change least (GPTQ).
///
/// # Shapes
/// `weight` as in [`quantize`]; `gram`: `Σ xᵀx` of its inputs, `[in_features, in_features]`.
///
/// # Errors
/// As in [`quantize`]; a Gram matrix that is not one.
pub fn calibrate(
    weight: &[f32],
    shape: [usize; 2],
    options: Options,
    gram: &[f32],
) -> Result<(PackedWeight, OutputError)> {
    let matrix = check(weight, shape, options)?;
    let n = matrix.in_features;
    if gram.len() != n * n {
        return Err(Error::invalid(format!("a Gram matrix of {} values for {n} features", gram.len()), ""));
    }
    let Feedback { damping, act_order, static_groups } = options.feedback;
    let ordering = Ordering { descending: act_order, width: options.kind.width() };
    let factor = Factor::new(gram, n, damping, ordering)?;
    let (levels, given) = options.levels(matrix, &factor.importance())?;
    let groups = match &given {
        Some(groups) => Groups::Given(groups),
        None if static_groups || !options.kind.has_free_groups() => Groups::Static,
        None => Groups::Fitted,
    };
    let coded = coding::code(matrix, &levels, Some(&factor), groups)?;
    let packed = pack(shape, matrix.group_size, &levels, coded, Some(&factor));
    let error = output_error(matrix, &levels, given.as_deref(), &packed, gram)?;
    Ok((packed, error))
}

impl Kind {
    /// Features that share a code.
    pub fn width(self) -> usize {
        match self {
            Self::Integer { .. } | Self::NormalFloat => 1,
            Self::Learned { width, .. } => width,
        }
    }

    /// Whether a group may hold features that are no neighbours.
    fn has_free_groups(self) -> bool {
        matches!(self, Self::Integer { .. })
    }

    /// Of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Integer { bits, .. } | Self::Learned { bits, .. } => bits,
            Self::NormalFloat => 4,
        }
    }
}

impl Options {
    /// How a weight that is quantized so lies in memory, in groups of `group_size`.
    pub fn layout(self, group_size: usize) -> PackedLayout {
        let levels = match self.kind {
            Kind::Integer { symmetric: true, .. } => LevelsKind::Zero,
            Kind::Integer { .. } => LevelsKind::Zeros,
            Kind::NormalFloat | Kind::Learned { .. } => {
                LevelsKind::Codebook { width: self.kind.width(), num_codebooks: 1 }
            }
        };
        let Feedback { act_order, static_groups, .. } = self.feedback;
        let ordered = act_order && !static_groups && self.kind.has_free_groups();
        PackedLayout { bits: self.kind.bits(), group_size, levels, ordered }
    }

    /// The levels for a matrix, and the scales where they were fitted with them.
    fn levels(self, matrix: Matrix<'_>, importance: &[f64]) -> Result<(Levels, Option<Vec<Group>>)> {
        if let Some(levels) = self.fixed_levels() {
            return Ok((levels, None));
        }
        let (bits, width) = (self.kind.bits(), self.kind.width());
        let (book, groups) = learn::learn(matrix, importance, bits, width, self.scale_dtype)?;
        Ok((Levels::Book(book), Some(groups)))
    }

    /// Those that are the same for every matrix.
    fn fixed_levels(self) -> Option<Levels> {
        let scale_dtype = self.scale_dtype;
        match self.kind {
            Kind::Integer { bits, symmetric, mse } => {
                Some(Levels::Grid(Grid { bits, symmetric, mse, scale_dtype }))
            }
            Kind::NormalFloat => Some(Levels::Book(Book::nf4(scale_dtype))),
            Kind::Learned { .. } => None,
        }
    }
}

fn check(weight: &[f32], shape: [usize; 2], options: Options) -> Result<Matrix<'_>> {
    let group_size = check_options(shape, options)?;
    let [out_features, in_features] = shape;
    if out_features * in_features != weight.len() {
        return Err(Error::invalid(
            format!("a matrix of {out_features} × {in_features} with {} values", weight.len()),
            "give one value per element",
        ));
    }
    Ok(Matrix { weight, in_features, group_size, first_row: 0 })
}

/// The features of a group.
fn check_options([out_features, in_features]: [usize; 2], options: Options) -> Result<usize> {
    let (bits, width) = (options.kind.bits(), options.kind.width());
    let allowed = match options.kind {
        Kind::Integer { bits, .. } => matches!(bits, 2 | 3 | 4 | 8),
        Kind::NormalFloat => true,
        Kind::Learned { .. } => (1..=16).contains(&bits) && (1..=Book::WIDEST).contains(&width),
    };
    if !allowed {
        return Err(Error::unsupported(
            format!("codes of {bits} bits for {width} weights"),
            "use 2, 3, 4 or 8 bits per weight",
        ));
    }
    let group_size = options.group_size.unwrap_or(in_features);
    if group_size == 0 || !group_size.is_multiple_of(width) || !in_features.is_multiple_of(width) {
        return Err(Error::invalid(
            format!("groups of {group_size} among {in_features} features, in vectors of {width}"),
            "use 32, 64, 128, or one group per row",
        ));
    }
    match out_features.checked_mul(in_features) {
        Some(1..) => Ok(group_size),
        _ => Err(Error::invalid(
            format!("a matrix of {out_features} × {in_features}"),
            "it has to have weights",
        )),
    }
}

fn pack(
    [out_features, in_features]: [usize; 2],
    group_size: usize,
    levels: &Levels,
    coded: Coded,
    factor: Option<&Factor>,
) -> PackedWeight {
    let Coded { codes, groups, reordered } = coded;
    let (bits, levels) = match levels {
        Levels::Grid(Grid { bits, symmetric: true, .. }) => (*bits, PackedLevels::Zero(1 << (bits - 1))),
        Levels::Grid(Grid { bits, .. }) => {
            (*bits, PackedLevels::Zeros(groups.iter().map(|group| group.zero as u8).collect()))
        }
        Levels::Book(book) => {
            let entries = book.entries.iter().map(|entry| *entry as f32).collect();
            (book.bits, PackedLevels::Codebook(Codebook { width: book.width, num_codebooks: 1, entries }))
        }
    };
    let order = factor.filter(|_| reordered);
    PackedWeight {
        out_features,
        in_features,
        bits,
        group_size,
        codes,
        scales: groups.iter().map(|group| group.scale).collect(),
        levels,
        perm: order.map(|factor| factor.order.iter().map(|&feature| feature as u32).collect()),
    }
}

/// Rows of a weight that [`OutputError`] is taken over.
const MEASURED_ROWS: usize = 128;

fn output_error(
    matrix: Matrix<'_>,
    levels: &Levels,
    given: Option<&[Group]>,
    packed: &PackedWeight,
    gram: &[f32],
) -> Result<OutputError> {
    let (n, step) = (matrix.in_features, matrix.out_features().div_ceil(MEASURED_ROWS));
    let rows = || (0..matrix.out_features()).step_by(step);
    let sample: Vec<f32> = rows().flat_map(|row| &matrix.weight[row * n..][..n]).copied().collect();
    let given: Option<Vec<Group>> = given.map(|given| {
        rows().flat_map(|row| &given[row * matrix.groups()..][..matrix.groups()]).copied().collect()
    });
    let sampled = Matrix { weight: &sample, ..matrix };
    let groups = given.as_deref().map_or(Groups::Fitted, Groups::Given);
    let nearest = coding::code(sampled, levels, None, groups)?;
    let nearest = pack(sampled.shape(), sampled.group_size, levels, nearest, None).to_dense();
    let feedback: Vec<f32> = rows().flat_map(|row| packed.row(row)).collect();
    let lost = |from: Vec<f32>| sample.iter().zip(from).map(|(w, got)| w - got).collect::<Vec<f32>>();
    let energies = hessian::energies(&[sample.clone(), lost(nearest), lost(feedback)].concat(), gram, n);
    let mut sums = energies.chunks(energies.len() / 3).map(|rows| rows.iter().sum::<f64>());
    let mut sum = || sums.next().unwrap_or_default();
    let of = sum().max(f64::MIN_POSITIVE);
    Ok(OutputError { nearest: sum() / of, feedback: sum() / of })
}
