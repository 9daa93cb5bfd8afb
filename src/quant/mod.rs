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
mod float_type;
mod grid;
mod hessian;
mod learn;
#[cfg(test)]
mod tests;

pub use book::NF4;
pub use config::{CALIBRATION_LENGTH, Method, QuantizeConfig};
pub use float_type::FloatType;

use std::ops::Range;

use book::Book;
use coding::{Coded, Groups, Levels, Matrix};
use grid::Grid;
use hessian::{Factor, Ordering};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::packed::{Codebook, Levels as PackedLevels, LevelsKind, PackedLayout, PackedWeight};

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

/// As [`quantize`], of a matrix that need not be in memory as a whole: `rows` gives some of its rows.
///
/// # Errors
/// As [`quantize`], and those of `rows`.
pub fn quantize_rows(
    shape: [usize; 2],
    options: Options,
    rows: &(dyn Fn(Range<usize>) -> Result<Vec<f32>> + Sync),
) -> Result<PackedWeight> {
    let [out_features, in_features] = shape;
    let at_a_time = match options.kind {
        // Learned from all of them.
        Kind::Learned { .. } => out_features.max(1),
        Kind::Integer { .. } | Kind::NormalFloat => 64,
    };
    let starts: Vec<usize> = (0..out_features).step_by(at_a_time).collect();
    let part = |&first_row: &usize| {
        let range = first_row..(first_row + at_a_time).min(out_features);
        let shape = [range.len(), in_features];
        let weight = rows(range)?;
        nearest(Matrix { first_row, ..check(&weight, shape, options)? }, options)
    };
    let parts = starts.par_iter().map(part).collect::<Result<Vec<_>>>()?;
    let mut parts = parts.into_iter();
    let Some(mut whole) = parts.next() else {
        return check(&[], shape, options).and_then(|matrix| nearest(matrix, options));
    };
    for part in parts {
        whole.out_features += part.out_features;
        whole.codes.extend(part.codes);
        whole.scales.extend(part.scales);
        if let (PackedLevels::Zeros(whole), PackedLevels::Zeros(part)) = (&mut whole.levels, part.levels) {
            whole.extend(part);
        }
    }
    Ok(whole)
}

fn nearest(matrix: Matrix<'_>, options: Options) -> Result<PackedWeight> {
    let (levels, groups) = options.levels(matrix, &vec![1.0; matrix.in_features])?;
    let coded = coding::code(matrix, &levels, None, groups.as_deref().map_or(Groups::Fitted, Groups::Given))?;
    Ok(pack(matrix, &levels, coded, None))
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
    let packed = pack(matrix, &levels, coded, Some(&factor));
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
                LevelsKind::Codebook { width: self.kind.width(), books: 1 }
            }
        };
        let Feedback { act_order, static_groups, .. } = self.feedback;
        let ordered = act_order && !static_groups && self.kind.has_free_groups();
        PackedLayout { bits: self.kind.bits(), group_size, levels, ordered }
    }

    /// The levels for a matrix, and the scales where they were fitted with them.
    fn levels(self, matrix: Matrix<'_>, importance: &[f64]) -> Result<(Levels, Option<Vec<grid::Group>>)> {
        let scale_dtype = self.scale_dtype;
        Ok(match self.kind {
            Kind::Integer { bits, symmetric, mse } => {
                (Levels::Grid(Grid { bits, symmetric, mse, scale_dtype }), None)
            }
            Kind::NormalFloat => (Levels::Book(Book::nf4(scale_dtype)), None),
            Kind::Learned { bits, width } => {
                let (book, groups) = learn::learn(matrix, importance, bits, width, scale_dtype)?;
                (Levels::Book(book), Some(groups))
            }
        })
    }
}

fn check(weight: &[f32], [out_features, in_features]: [usize; 2], options: Options) -> Result<Matrix<'_>> {
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
    let elements = out_features.checked_mul(in_features);
    if elements != Some(weight.len()) || weight.is_empty() {
        return Err(Error::invalid(
            format!("a matrix of {out_features} × {in_features} with {} values", weight.len()),
            "give one value per element, and at least one",
        ));
    }
    Ok(Matrix { weight, in_features, group_size, first_row: 0 })
}

fn pack(matrix: Matrix<'_>, levels: &Levels, coded: Coded, factor: Option<&Factor>) -> PackedWeight {
    let Coded { codes, groups, reordered } = coded;
    let (bits, levels) = match levels {
        Levels::Grid(Grid { bits, symmetric: true, .. }) => (*bits, PackedLevels::Zero(1 << (bits - 1))),
        Levels::Grid(Grid { bits, .. }) => {
            (*bits, PackedLevels::Zeros(groups.iter().map(|group| group.zero as u8).collect()))
        }
        Levels::Book(book) => {
            let entries = book.entries.iter().map(|entry| *entry as f32).collect();
            (book.bits, PackedLevels::Codebook(Codebook { width: book.width, books: 1, entries }))
        }
    };
    let order = factor.filter(|_| reordered);
    PackedWeight {
        out_features: matrix.out_features(),
        in_features: matrix.in_features,
        bits,
        group_size: matrix.group_size,
        codes,
        scales: groups.iter().map(|group| group.scale).collect(),
        levels,
        order: order.map(|factor| factor.order.iter().map(|&feature| feature as u32).collect()),
    }
}

/// Rows of a weight that [`OutputError`] is taken over.
const MEASURED_ROWS: usize = 128;

fn output_error(
    matrix: Matrix<'_>,
    levels: &Levels,
    given: Option<&[grid::Group]>,
    packed: &PackedWeight,
    gram: &[f32],
) -> Result<OutputError> {
    let (n, step) = (matrix.in_features, matrix.out_features().div_ceil(MEASURED_ROWS));
    let rows = || (0..matrix.out_features()).step_by(step);
    let sample: Vec<f32> = rows().flat_map(|row| &matrix.weight[row * n..][..n]).copied().collect();
    let given: Option<Vec<grid::Group>> = given.map(|given| {
        rows().flat_map(|row| &given[row * matrix.groups()..][..matrix.groups()]).copied().collect()
    });
    let sampled = Matrix { weight: &sample, ..matrix };
    let groups = given.as_deref().map_or(Groups::Fitted, Groups::Given);
    let nearest = pack(sampled, levels, coding::code(sampled, levels, None, groups)?, None).to_dense();
    let feedback: Vec<f32> = rows().flat_map(|row| packed.row(row)).collect();
    let lost = |from: Vec<f32>| sample.iter().zip(from).map(|(w, got)| w - got).collect::<Vec<f32>>();
    let energies = hessian::energies(&[sample.clone(), lost(nearest), lost(feedback)].concat(), gram, n);
    let mut sums = energies.chunks(energies.len() / 3).map(|rows| rows.iter().sum::<f64>());
    let mut sum = || sums.next().unwrap_or_default();
    let of = sum().max(f64::MIN_POSITIVE);
    Ok(OutputError { nearest: sum() / of, feedback: sum() / of })
}
