//! What the codes of a packed weight stand for. The formulas are drawn in [`super`].

/// What a code stands for before the scale multiplies it.
#[derive(Debug, Clone, PartialEq)]
pub enum Levels {
    /// `code − zero`, the same zero for the whole weight (symmetric quantization: 2^(bits−1)).
    Zero(u8),
    /// `code − zeros[o, group]`. Length: out_features × groups.
    Zeros(Vec<u8>),
    /// `code + minimum[o, group]`, the format's float minimum divided by its scale, so that the
    /// group moves as a whole. Where the scale is 0 the group is constant: the weight *is* the minimum.
    /// Length: out_features × groups.
    Minimum(Vec<f32>),
    Blocks(Blocks),
    Codebook(Codebook),
}

/// Integers below the scale of a group: only the scale is trained, and the whole group moves with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks {
    /// Features of a block; divides the group size.
    pub width: usize,
    /// Subtracted from every code.
    pub zero: u8,
    /// `[out_features, blocks of a row]`
    pub factors: Vec<i8>,
    pub minima: Option<BlockMinima>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BlockMinima {
    /// `[out_features, blocks of a row]`
    pub minima: Vec<u8>,
    /// What a minimum of 1 is, divided by the group's scale. Where the scale is 0 the blocks are constant:
    /// their weights *are* `unit · minimum`. `[out_features, groups]`
    pub units: Vec<f32>,
}

/// The same for the whole weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Codebook {
    /// Features that share a code; divides the group size and the row.
    pub width: usize,
    /// Codes that are added for each vector.
    pub books: usize,
    /// `[books, 2^bits, width]`
    pub entries: Vec<f32>,
}

/// What [`Levels`] there are, without their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LevelsKind {
    Zero,
    Zeros,
    Minimum,
    /// See [`Blocks`].
    Blocks {
        width: usize,
        minima: bool,
    },
    /// See [`Codebook`].
    Codebook {
        width: usize,
        books: usize,
    },
}

impl Levels {
    pub fn kind(&self) -> LevelsKind {
        match self {
            Self::Zero(_) => LevelsKind::Zero,
            Self::Zeros(_) => LevelsKind::Zeros,
            Self::Minimum(_) => LevelsKind::Minimum,
            Self::Blocks(Blocks { width, minima, .. }) => {
                LevelsKind::Blocks { width: *width, minima: minima.is_some() }
            }
            Self::Codebook(Codebook { width, books, .. }) => {
                LevelsKind::Codebook { width: *width, books: *books }
            }
        }
    }
}

impl LevelsKind {
    /// Codes of so many neighbouring features, where none of them shares its place with one outside.
    pub fn codes(self, features: usize) -> usize {
        match self {
            Self::Zero | Self::Zeros | Self::Minimum | Self::Blocks { .. } => features,
            Self::Codebook { width, books } => features / width * books,
        }
    }

    /// Features of a block; a group without blocks is one.
    pub fn block_size(self, group_size: usize) -> usize {
        match self {
            Self::Blocks { width, .. } => width,
            _ => group_size,
        }
    }
}
