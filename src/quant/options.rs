//! How a matrix is to be quantized: levels, groups and error feedback.

use super::book::Book;
use super::coding::{CodeLevels, DenseMatrix};
use super::grid::{Grid, GroupScale};
use super::learn;
use crate::error::{Error, Result};
use crate::packed::{FloatType, LevelsKind, PackedLayout};

/// Options for one matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantOptions {
    pub kind: CodeKind,
    /// Input features per group; `None`: one group per row. The last group of a row may be short.
    pub group_size: Option<usize>,
    /// Type of the scales in the file.
    pub scale_dtype: FloatType,
    /// Error feedback, used where there is a Gram matrix.
    pub feedback: Feedback,
}

/// The values that codes stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CodeKind {
    /// 2, 3, 4 or 8 bits. `mse`: search each group's range.
    Integer { bits: u32, symmetric: bool, mse: bool },
    /// NF4: 16 quantiles of a normal distribution.
    NormalFloat,
    /// A codebook fitted to this weight: `2^bits` vectors of `width` values.
    Learned { bits: u32, width: usize },
}

/// GPTQ's error feedback.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feedback {
    /// Share of the mean diagonal that is added to the Hessian; it grows until the Cholesky factorization succeeds.
    pub damping: f64,
    /// Quantize the features with the largest inputs first.
    pub act_order: bool,
    /// Keep groups of neighbours in spite of `act_order`; their scales are fitted before anything is quantized. Always
    /// the case with codebooks, whose formats have no other groups.
    pub static_groups: bool,
}

impl Default for Feedback {
    fn default() -> Self {
        // Ten times GPTQ's own: less fits the calibration text better and most layers worse on another text,
        // measured in benches/README.md.
        Self { damping: 0.1, act_order: false, static_groups: false }
    }
}

impl Default for QuantOptions {
    fn default() -> Self {
        Self {
            kind: CodeKind::Integer { bits: 4, symmetric: true, mse: false },
            group_size: Some(128),
            scale_dtype: FloatType::F16,
            feedback: Feedback::default(),
        }
    }
}

impl CodeKind {
    /// Features that share a code.
    pub fn width(self) -> usize {
        match self {
            Self::Integer { .. } | Self::NormalFloat => 1,
            Self::Learned { width, .. } => width,
        }
    }

    /// Whether a group may hold features that are no neighbours.
    pub(super) fn has_free_groups(self) -> bool {
        matches!(self, Self::Integer { .. })
    }

    /// Bits per code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Integer { bits, .. } | Self::Learned { bits, .. } => bits,
            Self::NormalFloat => 4,
        }
    }
}

impl QuantOptions {
    /// Layout in memory of a weight with these options, in groups of `group_size`.
    pub fn layout(self, group_size: usize) -> PackedLayout {
        let levels = match self.kind {
            CodeKind::Integer { symmetric: true, .. } => LevelsKind::Zero,
            CodeKind::Integer { .. } => LevelsKind::Zeros,
            CodeKind::NormalFloat | CodeKind::Learned { .. } => {
                LevelsKind::Codebook { width: self.kind.width(), num_codebooks: 1 }
            }
        };
        let Feedback { act_order, static_groups, .. } = self.feedback;
        let ordered = act_order && !static_groups && self.kind.has_free_groups();
        PackedLayout { bits: self.kind.bits(), group_size, levels, ordered }
    }

    /// The levels for a matrix, and the scales where they were fitted with them.
    pub(super) fn levels(
        self,
        matrix: DenseMatrix<'_>,
        importance: &[f64],
    ) -> Result<(CodeLevels, Option<Vec<GroupScale>>)> {
        if let Some(levels) = self.fixed_levels() {
            return Ok((levels, None));
        }
        let (bits, width) = (self.kind.bits(), self.kind.width());
        let (book, groups) = learn::learn(matrix, importance, bits, width, self.scale_dtype)?;
        Ok((CodeLevels::Book(book), Some(groups)))
    }

    /// The levels, where they are the same for every matrix.
    pub(super) fn fixed_levels(self) -> Option<CodeLevels> {
        let scale_dtype = self.scale_dtype;
        match self.kind {
            CodeKind::Integer { bits, symmetric, mse } => {
                Some(CodeLevels::Grid(Grid { bits, symmetric, mse, scale_dtype }))
            }
            CodeKind::NormalFloat => Some(CodeLevels::Book(Book::nf4(scale_dtype))),
            CodeKind::Learned { .. } => None,
        }
    }

    /// Input features of a group of a matrix of this shape.
    ///
    /// # Errors
    /// Options that contradict themselves or the shape.
    pub fn group_size_of(self, [out_features, in_features]: [usize; 2]) -> Result<usize> {
        let (bits, width) = (self.kind.bits(), self.kind.width());
        let allowed = match self.kind {
            CodeKind::Integer { bits, .. } => matches!(bits, 2 | 3 | 4 | 8),
            CodeKind::NormalFloat => true,
            CodeKind::Learned { .. } => (1..=16).contains(&bits) && (1..=Book::WIDEST).contains(&width),
        };
        if !allowed {
            return Err(Error::unsupported(
                format!("codes of {bits} bits for {width} weights"),
                "use 2, 3, 4 or 8 bits per weight",
            ));
        }
        let group_size = self.group_size.unwrap_or(in_features);
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
                "give one with at least one row and one column",
            )),
        }
    }
}
