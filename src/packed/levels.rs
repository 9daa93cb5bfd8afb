//! Levels of a packed weight: the value of a code before the scale multiplies it. The formulas are drawn in
//! [`super`].
//!
//! To add a kind of levels: a variant of [`Levels`] and of [`LevelsKind`] here, its length and its formula in
//! `weight`, and one arm where it is computed (`kernels/cpu/linear/scales`, `kernels/cube/packed`), saved
//! (`quantize/workspace`), described (`cli/inspect`) and tested (`kernels/reference/weights`).

use serde::{Deserialize, Serialize};

/// Value of a code before the scale multiplies it.
///
/// `B` holds integers of one byte and `F` floats of 32 bits: vectors on the host, tensors on a device, slices in
/// a kernel, `()` where only the shape counts. [`map`](Self::map) turns one into another.
///
/// Serialization writes the shape alone, under the names that files have; deserialized contents are empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "B: Default, F: Default"))]
pub enum Levels<B = Vec<u8>, F = Vec<f32>> {
    /// `code − zero`, one zero point for the whole weight (symmetric quantization: 2^(bits−1)).
    Zero(u8),
    /// `code − zeros[o, group]`. Length: out_features × groups.
    Zeros(#[serde(skip)] B),
    /// `code + minimum[o, group]`: the float minimum of the format divided by its scale, so that the group moves
    /// as a whole. Where the scale is 0 the group is constant and the weight *is* the minimum.
    /// Length: out_features × groups.
    Minimum(#[serde(skip)] F),
    /// Integer scales of parts of a group.
    #[serde(rename = "Blocks")]
    SubBlocks(SubBlocks<B, F>),
    /// Entries of codebooks.
    Codebook(Codebook<F>),
}

/// Integer scales, and perhaps minima, of the sub-blocks of each group, as in llama.cpp's K-quants. Only the
/// float scale of the group is trained, and the whole group moves with it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "B: Default, F: Default"))]
pub struct SubBlocks<B = Vec<u8>, F = Vec<f32>> {
    /// Features of a sub-block; divides the group size.
    pub width: usize,
    /// Zero point of every code.
    pub zero: u8,
    /// The scales, i8 `[out_features, sub-blocks of a row]`, and behind them, where there are `min_scales`, the minima,
    /// u8 in the same order.
    #[serde(skip)]
    pub integers: B,
    /// Float that the integer minima of a group multiply, divided by the group's scale. Where that scale is 0 the
    /// sub-blocks are constant: their weights *are* `min_scale · minimum`. `[out_features, groups]`
    #[serde(rename = "minima", with = "presence")]
    pub min_scales: Option<F>,
}

/// Codebooks that the whole weight shares.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "F: Default"))]
pub struct Codebook<F = Vec<f32>> {
    /// Features that share a code; divides the group size and the row.
    pub width: usize,
    /// Codes of each vector, one for each codebook; their entries are added.
    #[serde(rename = "books")]
    pub num_codebooks: usize,
    /// `[num_codebooks, 2^bits, width]`
    #[serde(skip)]
    pub entries: F,
}

/// Kind and sizes of [`Levels`], known without reading a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LevelsKind {
    Zero,
    Zeros,
    Minimum,
    /// See [`SubBlocks`].
    SubBlocks {
        width: usize,
        mins: bool,
    },
    /// See [`Codebook`].
    Codebook {
        width: usize,
        num_codebooks: usize,
    },
}

impl<B, F> Levels<B, F> {
    pub fn kind(&self) -> LevelsKind {
        match self {
            Self::Zero(_) => LevelsKind::Zero,
            Self::Zeros(_) => LevelsKind::Zeros,
            Self::Minimum(_) => LevelsKind::Minimum,
            Self::SubBlocks(SubBlocks { width, min_scales, .. }) => {
                LevelsKind::SubBlocks { width: *width, mins: min_scales.is_some() }
            }
            Self::Codebook(Codebook { width, num_codebooks, .. }) => {
                LevelsKind::Codebook { width: *width, num_codebooks: *num_codebooks }
            }
        }
    }

    /// The same levels with their contents elsewhere.
    pub fn map<C, G>(self, bytes: impl FnOnce(B) -> C, floats: impl FnOnce(F) -> G) -> Levels<C, G> {
        match self {
            Self::Zero(zero) => Levels::Zero(zero),
            Self::Zeros(zeros) => Levels::Zeros(bytes(zeros)),
            Self::Minimum(minimum) => Levels::Minimum(floats(minimum)),
            Self::SubBlocks(SubBlocks { width, zero, integers, min_scales }) => {
                Levels::SubBlocks(SubBlocks {
                    width,
                    zero,
                    integers: bytes(integers),
                    min_scales: min_scales.map(floats),
                })
            }
            Self::Codebook(Codebook { width, num_codebooks, entries }) => {
                Levels::Codebook(Codebook { width, num_codebooks, entries: floats(entries) })
            }
        }
    }

    pub fn as_ref(&self) -> Levels<&B, &F> {
        match self {
            Self::Zero(zero) => Levels::Zero(*zero),
            Self::Zeros(zeros) => Levels::Zeros(zeros),
            Self::Minimum(minimum) => Levels::Minimum(minimum),
            Self::SubBlocks(SubBlocks { width, zero, integers, min_scales }) => {
                let min_scales = min_scales.as_ref();
                Levels::SubBlocks(SubBlocks { width: *width, zero: *zero, integers, min_scales })
            }
            Self::Codebook(Codebook { width, num_codebooks, entries }) => {
                Levels::Codebook(Codebook { width: *width, num_codebooks: *num_codebooks, entries })
            }
        }
    }

    /// The zero point of all codes (0 where there is no single one), the integers and the floats.
    pub fn into_parts(self) -> (u8, Option<B>, Option<F>) {
        match self {
            Self::Zero(zero) => (zero, None, None),
            Self::Zeros(zeros) => (0, Some(zeros), None),
            Self::Minimum(minimum) => (0, None, Some(minimum)),
            Self::SubBlocks(SubBlocks { zero, integers, min_scales, .. }) => {
                (zero, Some(integers), min_scales)
            }
            Self::Codebook(Codebook { entries, .. }) => (0, None, Some(entries)),
        }
    }
}

impl SubBlocks {
    /// `mins`: the integer minima, as many as `scales`, and the floats that they multiply.
    pub fn new(width: usize, zero: u8, scales: Vec<i8>, mins: Option<(Vec<u8>, Vec<f32>)>) -> Self {
        let mut integers: Vec<u8> = bytemuck::cast_vec(scales);
        let min_scales = mins.map(|(mins, min_scales)| {
            integers.extend(mins);
            min_scales
        });
        Self { width, zero, integers, min_scales }
    }
}

impl<B: AsRef<[u8]>, F> SubBlocks<B, F> {
    /// Scales of the `count` sub-blocks of the weight.
    pub fn scales(&self, count: usize) -> &[i8] {
        bytemuck::cast_slice(&self.integers.as_ref()[..count])
    }

    /// Minima of the `count` sub-blocks of the weight, and the floats that they multiply.
    pub fn mins(&self, count: usize) -> Option<(&[u8], &F)> {
        let min_scales = self.min_scales.as_ref()?;
        Some((&self.integers.as_ref()[count..2 * count], min_scales))
    }
}

impl LevelsKind {
    /// Codes of `features` neighbouring features, which are whole vectors.
    pub fn codes(self, features: usize) -> usize {
        let (width, num_codebooks) = self.vectors();
        features / width * num_codebooks
    }

    /// Features of a sub-block; a group without sub-blocks is one.
    pub fn sub_block_size(self, group_size: usize) -> usize {
        match self {
            Self::SubBlocks { width, .. } => width,
            _ => group_size,
        }
    }

    /// Features that share a code, and codes that are added up for them.
    pub fn vectors(self) -> (usize, usize) {
        match self {
            Self::Codebook { width, num_codebooks } => (width, num_codebooks),
            _ => (1, 1),
        }
    }

    /// Whether a float minimum is added to the level of a code.
    pub fn has_mins(self) -> bool {
        matches!(self, Self::Minimum | Self::SubBlocks { mins: true, .. })
    }

    /// Checks that a code stands for its distance from a zero point, be that stored as a minimum.
    ///
    /// # Errors
    /// The levels are of another kind, as the error says.
    pub fn check_zero_points(self) -> Result<(), String> {
        match self {
            Self::Zero | Self::Zeros | Self::Minimum => Ok(()),
            Self::SubBlocks { .. } => Err("its groups have sub-blocks with scales of their own".into()),
            Self::Codebook { .. } => Err("its codes stand for entries of a codebook".into()),
        }
    }

    /// Bytes of the levels of a whole weight with `groups` groups and `sub_blocks` sub-blocks.
    pub fn bytes(self, bits: u32, groups: u64, sub_blocks: u64) -> u64 {
        match self {
            Self::Zero => 0,
            Self::Zeros => groups,
            Self::Minimum => 4 * groups,
            Self::SubBlocks { mins: false, .. } => sub_blocks,
            Self::SubBlocks { mins: true, .. } => 2 * sub_blocks + 4 * groups,
            Self::Codebook { width, num_codebooks } => 4 * ((num_codebooks << bits) * width) as u64,
        }
    }
}

/// Serializes an optional part as whether it is there.
mod presence {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<F, S: Serializer>(part: &Option<F>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(part.is_some())
    }

    pub fn deserialize<'de, F: Default, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<F>, D::Error> {
        Ok(bool::deserialize(deserializer)?.then(F::default))
    }
}
