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

use std::mem::replace;

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

/// How a packed weight lies in memory, known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    pub bits: u32,
    pub group_size: usize,
    pub levels: LevelsKind,
    /// Whether the features are in another order than the model's.
    pub ordered: bool,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_every_width_survive_packing_across_word_boundaries() {
        for bits in 1..=16 {
            let mut words = vec![0; words_per_row(45, bits)];
            let code = |i: usize| (i as u32 * 7 + 3) & (u32::MAX >> (32 - bits));
            (0..45).for_each(|i| put_code(&mut words, i, bits, code(i)));
            assert!((0..45).all(|i| get_code(&words, i, bits) == code(i)), "{bits} bits");
        }
    }

    #[test]
    fn a_weight_that_contradicts_itself_is_named() {
        let weight = |width: usize, levels| PackedWeight {
            out_features: 2,
            in_features: 12,
            bits: 3,
            group_size: 8,
            codes: vec![0; 2 * (36 / width).div_ceil(32)],
            scales: vec![1.0; 4],
            levels,
            order: Some((0..12).rev().collect()),
        };
        let zeros = weight(1, Levels::Zeros(vec![3; 4]));
        let minimum = weight(1, Levels::Minimum(vec![0.5; 4]));
        let codebook =
            |width, books, length| Levels::Codebook(Codebook { width, books, entries: vec![0.5; length] });
        let pairs = weight(2, codebook(2, 1, 16));
        let blocks = |width, factors: usize, minima: usize, unit| {
            let minima = Some(BlockMinima { minima: vec![1; minima], units: vec![unit; 4] });
            Levels::Blocks(Blocks { width, zero: 0, factors: vec![2; factors], minima })
        };
        let quads = weight(1, blocks(4, 6, 6, 0.5));
        for good in [&zeros, &minimum, &pairs, &quads] {
            good.check().unwrap();
        }
        type Change = fn(&mut PackedWeight);
        let cases: [(&PackedWeight, Change, &str); 15] = [
            (&zeros, |w| w.out_features = 0, "out_features is 0"),
            (&zeros, |w| w.in_features = usize::MAX, "in_features is"),
            (&zeros, |w| w.group_size = 0, "group_size is 0"),
            (&zeros, |w| w.bits = 9, "codes of 9 bits"),
            (&pairs, |w| w.bits = 17, "codes of 17 bits"),
            (&zeros, |w| w.bits = 0, "codes of 0 bits"),
            (&zeros, |w| w.codes.truncate(3), "3 words of codes, expected 4"),
            (&zeros, |w| w.scales.push(1.0), "5 scales, expected 4"),
            (&zeros, |w| w.scales[2] = f32::NAN, "a scale that is not finite"),
            (&zeros, |w| w.levels = Levels::Zeros(vec![3; 5]), "5 zero points"),
            (&minimum, |w| w.levels = Levels::Minimum(vec![f32::INFINITY; 4]), "a minimum that"),
            (&pairs, |w| w.group_size = 7, "vectors of 2 do not fill"),
            (&zeros, |w| w.order = Some(vec![0; 12]), "an order that does not name each of 12"),
            (&zeros, |w| w.order = Some((1..13).collect()), "an order that"),
            (&zeros, |w| w.order = Some((0..11).collect()), "an order that"),
        ];
        for (good, change, expected) in cases {
            let mut bad = good.clone();
            change(&mut bad);
            let error = bad.check().unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        for (width, books, length, expected) in [
            (2, 1, 15, "15 values of codebooks, expected 16"),
            (0, 1, 0, "vectors of 0"),
            (2, 0, 0, "0 codebooks"),
            (usize::MAX, 1, 16, "vectors of"),
        ] {
            let error = weight(2, codebook(width, books, length)).check().unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        for (levels, expected) in [
            (blocks(0, 6, 6, 0.5), "blocks of 0 do not fill groups of 8"),
            (blocks(3, 8, 8, 0.5), "blocks of 3"),
            (blocks(4, 5, 6, 0.5), "5 factors, expected 6"),
            (blocks(4, 6, 7, 0.5), "7 minima, expected 6"),
            (blocks(4, 6, 6, f32::NAN), "a unit of minima that is not finite"),
        ] {
            let error = weight(1, levels).check().unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_layout_counts_bytes_without_the_weight() {
        let bytes = |bits, levels, ordered| {
            let layout = PackedLayout { bits, group_size: 64, levels, ordered };
            let shape = [10, 600];
            [layout.code_bytes(shape), layout.scale_bytes(shape), layout.level_bytes(shape)]
        };
        // 1800 bits are 57 words, and 600 features 10 groups.
        assert_eq!(bytes(3, LevelsKind::Zero, false), [10 * 57 * 4, 400, 0]);
        assert_eq!(bytes(3, LevelsKind::Zeros, true), [10 * 57 * 4, 400, 100 + 4 * 600]);
        assert_eq!(bytes(3, LevelsKind::Minimum, false), [10 * 57 * 4, 400, 400]);
        let blocks = |minima| LevelsKind::Blocks { width: 16, minima };
        assert_eq!(bytes(3, blocks(false), false), [10 * 57 * 4, 400, 10 * 38]);
        assert_eq!(bytes(3, blocks(true), false), [10 * 57 * 4, 400, 10 * 38 * 2 + 400]);
        let pairs = LevelsKind::Codebook { width: 2, books: 1 };
        assert_eq!(bytes(6, pairs, false), [10 * 57 * 4, 400, 64 * 2 * 4]);
        let octets = LevelsKind::Codebook { width: 8, books: 2 };
        assert_eq!(bytes(8, octets, true), [10 * 38 * 4, 400, 2 * 256 * 8 * 4 + 4 * 600]);
    }
}
