//! Which sides of a dense product are read transposed.

/// Product of two matrices as they lie in memory, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProductForm {
    /// `[m, k] · [n, k]ᵀ`
    RightTransposed,
    /// `[m, k] · [k, n]`
    Plain,
    /// `[k, m]ᵀ · [k, n]`
    LeftTransposed,
}

impl ProductForm {
    /// Whether the left and the right matrix are transposed.
    pub fn transposed(self) -> [bool; 2] {
        [self == Self::LeftTransposed, self == Self::RightTransposed]
    }
}
