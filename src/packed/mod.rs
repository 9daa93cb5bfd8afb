//! The packed weight: one description for every quantized format.
//!
//! ```text
//! row o of the weight (out_features rows, Hugging Face order)
//!
//! codes   | c0 c1 c2 …           pad |   `bits` bits each, low bits of a u32 word first, a code may
//!         | w0 w1 …  w(words-1)      |   straddle two words; each row starts a new word
//! scales  | s0        s1       …     |   one f32 per group of `group_size` input features, the last
//! levels  | zero or minimum a group  |   group of a row may be short
//!
//! weight[o, i] = scales[o, i / group_size] · level(code[o, i])
//! ```
//!
//! Where groups have blocks of `width` features, each block has an integer factor, and may have an integer
//! minimum that the group's `unit` multiplies:
//!
//! ```text
//! level(code[o, i]) = factors[o, i / width] · (code[o, i] − zero) + units[o, i / group_size] · minima[o, i / width]
//! ```
//!
//! With a codebook of vectors, `width` neighbouring features share a place in the stream of codes, which
//! holds one code for each of its `books`: their entries are added.
//!
//! ```text
//! weight[o, v·width + j] = scales[o, v·width / group_size] · Σ_b entries[b, code[o, v·books + b], j]
//! ```
//!
//! Where the features are quantized in another order than the model's, `order` says which feature of the
//! input stands at each place: `y[o] = Σ_i weight[o, i] · x[order[i]]`.

pub mod convert;
mod float_type;
mod levels;

use std::mem::replace;

pub use float_type::FloatType;
pub use levels::{BlockMinima, Blocks, Codebook, Levels, LevelsKind};

/// How a packed weight lies in memory, known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    pub bits: u32,
    pub group_size: usize,
    pub levels: LevelsKind,
    /// Whether the features are in another order than the model's.
    pub ordered: bool,
}

impl PackedLayout {
    /// Bytes of a weight `[out, input]`: of its codes.
    pub fn code_bytes(&self, [out, input]: [usize; 2]) -> u64 {
        4 * out as u64 * words_per_row(self.levels.codes(input), self.bits) as u64
    }

    /// Of its f32 scales.
    pub fn scale_bytes(&self, [out, input]: [usize; 2]) -> u64 {
        4 * out as u64 * input.div_ceil(self.group_size) as u64
    }

    /// Of its zero points, minima, blocks or codebook, and of the order of its features.
    pub fn level_bytes(&self, shape: [usize; 2]) -> u64 {
        let levels = match self.levels {
            LevelsKind::Zero => 0,
            LevelsKind::Zeros => self.scale_bytes(shape) / 4,
            LevelsKind::Minimum => self.scale_bytes(shape),
            LevelsKind::Blocks { width, minima } => {
                let blocks = shape[0] as u64 * shape[1].div_ceil(width) as u64;
                if minima { 2 * blocks + self.scale_bytes(shape) } else { blocks }
            }
            LevelsKind::Codebook { width, books } => 4 * ((books << self.bits) * width) as u64,
        };
        levels + if self.ordered { 4 * shape[1] as u64 } else { 0 }
    }
}

/// A quantized matrix `[out_features, in_features]`; see the drawing above.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    pub out_features: usize,
    pub in_features: usize,
    /// Of a code. 1 to 8; with a codebook 1 to 16.
    pub bits: u32,
    /// Input features per group; `groups()` rounds up.
    pub group_size: usize,
    /// `[out_features, words_per_row]`.
    pub codes: Vec<u32>,
    /// `[out_features, groups]`, f32 master copy.
    pub scales: Vec<f32>,
    pub levels: Levels,
    /// The input feature at each place of a row, each once; `None`: their own order. Length: in_features.
    pub order: Option<Vec<u32>>,
}

impl PackedWeight {
    /// Says what contradicts the description above, if anything: kernels index by these numbers without
    /// looking again.
    pub fn check(&self) -> Result<(), String> {
        let Self { out_features, in_features, bits, group_size, .. } = *self;
        // Small enough that no product below overflows.
        let sizes =
            [("out_features", out_features), ("in_features", in_features), ("group_size", group_size)];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 31).contains(size)) {
            return Err(format!("{name} is {size}"));
        }
        let (width, most) = match &self.levels {
            Levels::Codebook(Codebook { width, books, .. }) => {
                if !(1..=64).contains(width) || !(1..=64).contains(books) {
                    return Err(format!("{books} codebooks of vectors of {width}"));
                }
                (*width, 16)
            }
            _ => (1, 8),
        };
        if !(1..=most).contains(&bits) {
            return Err(format!("codes of {bits} bits"));
        }
        if !in_features.is_multiple_of(width) || !group_size.is_multiple_of(width) {
            return Err(format!(
                "vectors of {width} do not fill rows of {in_features} in groups of {group_size}"
            ));
        }
        if let Levels::Blocks(Blocks { width, .. }) = self.levels
            && (width == 0 || !group_size.is_multiple_of(width))
        {
            return Err(format!("blocks of {width} do not fill groups of {group_size}"));
        }
        let groups = out_features * self.groups();
        let length = |what: &str, got: usize, expected: usize| match got == expected {
            true => Ok(()),
            false => Err(format!("{got} {what}, expected {expected}")),
        };
        length("words of codes", self.codes.len(), out_features * self.words_per_row())?;
        length("scales", self.scales.len(), groups)?;
        finite("scale", &self.scales)?;
        match &self.levels {
            Levels::Zero(_) => {}
            Levels::Zeros(zeros) => length("zero points", zeros.len(), groups)?,
            Levels::Minimum(minimum) => {
                length("minima", minimum.len(), groups)?;
                finite("minimum", minimum)?;
            }
            Levels::Blocks(Blocks { width, factors, minima, .. }) => {
                let blocks = out_features * in_features.div_ceil(*width);
                length("factors", factors.len(), blocks)?;
                if let Some(BlockMinima { minima, units }) = minima {
                    length("minima", minima.len(), blocks)?;
                    length("units of minima", units.len(), groups)?;
                    finite("unit of minima", units)?;
                }
            }
            Levels::Codebook(Codebook { books, entries, .. }) => {
                length("values of codebooks", entries.len(), (books << bits) * width)?;
                finite("entry of a codebook", entries)?;
            }
        }
        self.order.as_ref().map_or(Ok(()), |order| permutation(order, in_features))
    }

    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    pub fn words_per_row(&self) -> usize {
        words_per_row(self.codes_per_row(), self.bits)
    }

    pub fn codes_per_row(&self) -> usize {
        self.levels.kind().codes(self.in_features)
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
            Levels::Blocks(Blocks { width, zero, factors, minima }) => {
                let block = row * self.in_features.div_ceil(*width) + place / width;
                let level = f32::from(factors[block]) * (code() - f32::from(*zero));
                match minima.as_ref().map(|m| m.units[group] * f32::from(m.minima[block])) {
                    None => scale * level,
                    Some(minimum) if scale == 0.0 => minimum,
                    Some(minimum) => scale * (level + minimum),
                }
            }
            Levels::Codebook(Codebook { width, books, entries }) => {
                let (vector, j) = (place / width, place % width);
                let entry = |book: usize| {
                    let code = self.code(row, vector * books + book) as usize;
                    entries[((book << self.bits) + code) * width + j]
                };
                scale * (0..*books).map(entry).sum::<f32>()
            }
        }
    }

    /// The weights of a row, the features in the model's order.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let mut dense = vec![0.0; self.in_features];
        for place in 0..self.in_features {
            let feature = self.order.as_ref().map_or(place, |order| order[place] as usize);
            dense[feature] = self.value(row, place);
        }
        dense
    }

    /// All weights, row-major.
    pub fn to_dense(&self) -> Vec<f32> {
        (0..self.out_features).flat_map(|row| self.row(row)).collect()
    }
}

fn finite(what: &str, values: &[f32]) -> Result<(), String> {
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(format!("a {what} that is not finite")),
    }
}

fn permutation(order: &[u32], features: usize) -> Result<(), String> {
    let mut seen = vec![false; order.len()];
    let is_new = |feature: &u32| seen.get_mut(*feature as usize).is_some_and(|seen| !replace(seen, true));
    match order.len() == features && order.iter().all(is_new) {
        true => Ok(()),
        false => Err(format!("an order that does not name each of {features} features once")),
    }
}

pub fn words_per_row(codes: usize, bits: u32) -> usize {
    (codes * bits as usize).div_ceil(32)
}

/// Code number `index` of a bit stream of `bits`-wide codes, low bits first.
pub fn get_code(words: &[u32], index: usize, bits: u32) -> u32 {
    let bit = index * bits as usize;
    let (word, shift) = (bit / 32, (bit % 32) as u32);
    let mut value = words[word] >> shift;
    if shift + bits > 32 {
        value |= words[word + 1] << (32 - shift);
    }
    value & (u32::MAX >> (32 - bits))
}

/// Writes code number `index`; the bits there must still be zero.
pub fn put_code(words: &mut [u32], index: usize, bits: u32, code: u32) {
    let bit = index * bits as usize;
    let (word, shift) = (bit / 32, (bit % 32) as u32);
    words[word] |= code << shift;
    if shift + bits > 32 {
        words[word + 1] |= code >> (32 - shift);
    }
}

/// Writes codes of one byte each from number `start` on; the bits there must still be zero.
pub fn put_codes(words: &mut [u32], start: usize, bits: u32, codes: &[u8]) {
    // As many codes begin with a word whatever their width.
    const CODES: usize = 32;
    let whole = if start.is_multiple_of(CODES) { codes.len() / CODES * CODES } else { 0 };
    let to = &mut words[start / CODES * bits as usize..];
    match bits {
        2 => pack_codes(&codes[..whole], 2, to),
        3 => pack_codes(&codes[..whole], 3, to),
        4 => pack_codes(&codes[..whole], 4, to),
        _ => pack_codes(&codes[..whole], bits, to),
    }
    for (i, code) in codes[whole..].iter().enumerate() {
        put_code(words, start + whole + i, bits, u32::from(*code));
    }
}

/// Codes of one byte each, 32 · n of them → a stream of `bits`-wide ones.
#[inline(always)]
pub fn pack_codes(codes: &[u8], bits: u32, words: &mut [u32]) {
    for (codes, words) in codes.as_chunks::<32>().0.iter().zip(words.chunks_exact_mut(bits as usize)) {
        let mut stream = [0; 32];
        // Eight codes are as many bytes as a code has bits.
        for (codes, bytes) in codes.as_chunks().0.iter().zip(stream.chunks_exact_mut(bits as usize)) {
            let eight = u64::from_le_bytes(*codes);
            let twos = eight & 0x00ff_00ff_00ff_00ff | (eight & 0xff00_ff00_ff00_ff00) >> (8 - bits);
            let fours = twos & 0x0000_ffff_0000_ffff | (twos & 0xffff_0000_ffff_0000) >> (16 - 2 * bits);
            let all = fours & 0x0000_0000_ffff_ffff | (fours & 0xffff_ffff_0000_0000) >> (32 - 4 * bits);
            bytes.copy_from_slice(&all.to_le_bytes()[..bits as usize]);
        }
        for (word, bytes) in words.iter_mut().zip(stream.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
}

#[cfg(test)]
mod tests;
