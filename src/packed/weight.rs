//! The packed weight and its layout; both are drawn in [`super`].

use std::mem::replace;

use super::codes::{get_code, words_per_row};
use super::levels::{Codebook, Levels, LevelsKind, SubBlocks};

/// Layout of a packed weight, known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    /// Bits per code.
    pub bits: u32,
    /// Input features per group.
    pub group_size: usize,
    pub levels: LevelsKind,
    /// Whether the features are in another order than the model's.
    pub ordered: bool,
}

impl PackedLayout {
    /// Bytes of the codes of a weight `[out, input]`.
    pub fn code_bytes(&self, [out, input]: [usize; 2]) -> u64 {
        4 * out as u64 * words_per_row(self.levels.codes(input), self.bits) as u64
    }

    /// Bytes of the f32 scales of a weight `[out, input]`.
    pub fn scale_bytes(&self, [out, input]: [usize; 2]) -> u64 {
        4 * out as u64 * input.div_ceil(self.group_size) as u64
    }

    /// Bytes of the levels of a weight `[out, input]`, and of the order of its features.
    pub fn level_bytes(&self, shape: [usize; 2]) -> u64 {
        let [out, input] = shape.map(|size| size as u64);
        let sub_blocks = out * input.div_ceil(self.levels.sub_block_size(self.group_size) as u64);
        let levels = self.levels.bytes(self.bits, self.scale_bytes(shape) / 4, sub_blocks);
        levels + if self.ordered { 4 * input } else { 0 }
    }
}

/// A quantized matrix `[out_features, in_features]`.
///
/// `W` holds words of 32 bits, `B` integers of one byte and `F` floats of 32 bits: vectors on the host, tensors on
/// a device, slices in a kernel. [`map`](Self::map) turns one into another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PackedWeight<W = Vec<u32>, B = Vec<u8>, F = Vec<f32>> {
    pub out_features: usize,
    pub in_features: usize,
    /// Bits per code: 1 to 8, with codebooks 1 to 16.
    pub bits: u32,
    /// Input features per group; [`groups`](Self::groups) rounds up.
    pub group_size: usize,
    /// `[out_features, words_per_row]`
    pub codes: W,
    /// Master copy. `[out_features, groups]`
    pub scales: F,
    pub levels: Levels<B, F>,
    /// The input feature at each place of a row, each once; `None` where they are in order. `[in_features]`
    pub perm: Option<W>,
}

impl<W, B, F> PackedWeight<W, B, F> {
    /// The same weight with its contents elsewhere.
    pub fn map<X, C, G>(
        self,
        mut words: impl FnMut(W) -> X,
        bytes: impl FnOnce(B) -> C,
        mut floats: impl FnMut(F) -> G,
    ) -> PackedWeight<X, C, G> {
        PackedWeight {
            out_features: self.out_features,
            in_features: self.in_features,
            bits: self.bits,
            group_size: self.group_size,
            codes: words(self.codes),
            scales: floats(self.scales),
            levels: self.levels.map(bytes, floats),
            perm: self.perm.map(words),
        }
    }

    pub fn as_ref(&self) -> PackedWeight<&W, &B, &F> {
        PackedWeight {
            out_features: self.out_features,
            in_features: self.in_features,
            bits: self.bits,
            group_size: self.group_size,
            codes: &self.codes,
            scales: &self.scales,
            levels: self.levels.as_ref(),
            perm: self.perm.as_ref(),
        }
    }

    pub fn elements(&self) -> usize {
        self.out_features * self.in_features
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    /// Features of a sub-block; a group without sub-blocks is one.
    pub fn sub_block_size(&self) -> usize {
        self.levels.kind().sub_block_size(self.group_size)
    }

    /// Sub-blocks of a row; a group without sub-blocks is one.
    pub fn sub_blocks(&self) -> usize {
        self.in_features.div_ceil(self.sub_block_size())
    }

    pub fn codes_per_row(&self) -> usize {
        self.levels.kind().codes(self.in_features)
    }

    pub fn words_per_row(&self) -> usize {
        words_per_row(self.codes_per_row(), self.bits)
    }
}

impl PackedWeight {
    /// Checks every length and number against the description in [`super`]: kernels index by them without looking
    /// again.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), String> {
        let Self { out_features, in_features, bits, group_size, .. } = *self;
        // Small enough that no product below overflows.
        let sizes =
            [("out_features", out_features), ("in_features", in_features), ("group_size", group_size)];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 31).contains(size)) {
            return Err(format!("{name} is {size}"));
        }
        let (width, num_codebooks) = self.levels.kind().vectors();
        if !(1..=64).contains(&width) || !(1..=64).contains(&num_codebooks) {
            return Err(format!("{num_codebooks} codebooks of vectors of {width}"));
        }
        let most = if matches!(self.levels, Levels::Codebook(_)) { 16 } else { 8 };
        if !(1..=most).contains(&bits) {
            return Err(format!("codes of {bits} bits"));
        }
        if !in_features.is_multiple_of(width) || !group_size.is_multiple_of(width) {
            return Err(format!(
                "vectors of {width} do not fill rows of {in_features} in groups of {group_size}"
            ));
        }
        let sub_block = self.sub_block_size();
        if sub_block == 0 || !group_size.is_multiple_of(sub_block) {
            return Err(format!("sub-blocks of {sub_block} do not fill groups of {group_size}"));
        }
        length("words of codes", self.codes.len(), out_features * self.words_per_row())?;
        length("scales", self.scales.len(), out_features * self.groups())?;
        finite("scale", &self.scales)?;
        self.check_levels()?;
        self.perm.as_ref().map_or(Ok(()), |perm| permutation(perm, in_features))
    }

    fn check_levels(&self) -> Result<(), String> {
        let (groups, sub_blocks) = (self.out_features * self.groups(), self.out_features * self.sub_blocks());
        match &self.levels {
            Levels::Zero(_) => Ok(()),
            Levels::Zeros(zeros) => length("zero points", zeros.len(), groups),
            Levels::Minimum(minimum) => {
                length("minima", minimum.len(), groups)?;
                finite("minimum", minimum)
            }
            Levels::SubBlocks(SubBlocks { integers, min_scales: None, .. }) => {
                length("scales of sub-blocks", integers.len(), sub_blocks)
            }
            Levels::SubBlocks(SubBlocks { integers, min_scales: Some(min_scales), .. }) => {
                length("scales and minima of sub-blocks", integers.len(), 2 * sub_blocks)?;
                length("scales of minima", min_scales.len(), groups)?;
                finite("scale of minima", min_scales)
            }
            Levels::Codebook(Codebook { width, num_codebooks, entries }) => {
                length("values of codebooks", entries.len(), (num_codebooks << self.bits) * width)?;
                finite("entry of a codebook", entries)
            }
        }
    }

    /// Code number `index` of a row.
    pub fn code(&self, row: usize, index: usize) -> u32 {
        let words = &self.codes[row * self.words_per_row()..(row + 1) * self.words_per_row()];
        get_code(words, index, self.bits)
    }

    /// The weight at a place of a row: the plain definition that every kernel is tested against.
    pub fn value(&self, row: usize, place: usize) -> f32 {
        let group = row * self.groups() + place / self.group_size;
        let scale = self.scales[group];
        let code = || self.code(row, place) as f32;
        match &self.levels {
            Levels::Zero(zero) => scale * (code() - f32::from(*zero)),
            Levels::Zeros(zeros) => scale * (code() - f32::from(zeros[group])),
            Levels::Minimum(minimum) if scale == 0.0 => minimum[group],
            Levels::Minimum(minimum) => scale * (code() + minimum[group]),
            Levels::SubBlocks(blocks) => {
                let (block, count) = (row * self.sub_blocks() + place / blocks.width, self.sub_blocks());
                let count = count * self.out_features;
                let level = f32::from(blocks.scales(count)[block]) * (code() - f32::from(blocks.zero));
                let minimum = |(mins, scales): (&[u8], &Vec<f32>)| scales[group] * f32::from(mins[block]);
                match blocks.mins(count).map(minimum) {
                    None => scale * level,
                    Some(minimum) if scale == 0.0 => minimum,
                    Some(minimum) => scale * (level + minimum),
                }
            }
            Levels::Codebook(Codebook { width, num_codebooks, entries }) => {
                let (vector, j) = (place / width, place % width);
                let entry = |book: usize| {
                    let code = self.code(row, vector * num_codebooks + book) as usize;
                    entries[((book << self.bits) + code) * width + j]
                };
                scale * (0..*num_codebooks).map(entry).sum::<f32>()
            }
        }
    }

    /// The weights of a row, the features in the model's order.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let mut dense = vec![0.0; self.in_features];
        for place in 0..self.in_features {
            let feature = self.perm.as_ref().map_or(place, |perm| perm[place] as usize);
            dense[feature] = self.value(row, place);
        }
        dense
    }

    /// All weights, row-major.
    pub fn to_dense(&self) -> Vec<f32> {
        (0..self.out_features).flat_map(|row| self.row(row)).collect()
    }
}

fn length(what: &str, got: usize, expected: usize) -> Result<(), String> {
    match got == expected {
        true => Ok(()),
        false => Err(format!("{got} {what}, expected {expected}")),
    }
}

fn finite(what: &str, values: &[f32]) -> Result<(), String> {
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(format!("a {what} that is not finite")),
    }
}

fn permutation(perm: &[u32], features: usize) -> Result<(), String> {
    let mut seen = vec![false; perm.len()];
    let is_new = |feature: &u32| seen.get_mut(*feature as usize).is_some_and(|seen| !replace(seen, true));
    match perm.len() == features && perm.iter().all(is_new) {
        true => Ok(()),
        false => Err(format!("an order that does not name each of {features} features once")),
    }
}
