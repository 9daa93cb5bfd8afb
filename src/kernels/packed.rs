//! The packed weight: one description for every quantized format.
//!
//! ```text
//! row o of the weight (out_features rows, Hugging Face order)
//!
//! codes   | c0 c1 c2 … c(in-1) pad |   `bits` bits each, low bits of a u32 word first, a code may
//!         | w0 w1 …  w(words-1)    |   straddle two words (3 bits); each row starts a new word
//! scales  | s0        s1       …   |   one f32 per group of `group_size` input features, the last
//! levels  | zero or minimum a group|   group of a row may be short
//!
//! weight[o, i] = scales[o, i / group_size] · level(code[o, i])
//! ```

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
    /// `codebook[code]`. Length: 2^bits.
    Codebook(Vec<f32>),
}

/// A quantized matrix `[out_features, in_features]`; see the drawing above.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    pub out_features: usize,
    pub in_features: usize,
    /// 2, 3, 4 or 8.
    pub bits: u32,
    /// Input features per group; `groups()` rounds up.
    pub group_size: usize,
    /// `[out_features, words_per_row]`.
    pub codes: Vec<u32>,
    /// `[out_features, groups]`, f32 master copy.
    pub scales: Vec<f32>,
    pub levels: Levels,
}

impl PackedWeight {
    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    pub fn words_per_row(&self) -> usize {
        words_per_row(self.in_features, self.bits)
    }

    /// The code at `[row, column]`.
    pub fn code(&self, row: usize, column: usize) -> u32 {
        let words = &self.codes[row * self.words_per_row()..(row + 1) * self.words_per_row()];
        get_code(words, column, self.bits)
    }

    /// The weight at `[row, column]`: the plain definition that every kernel is tested against.
    pub fn value(&self, row: usize, column: usize) -> f32 {
        let group = row * self.groups() + column / self.group_size;
        let (scale, code) = (self.scales[group], self.code(row, column));
        match &self.levels {
            Levels::Zero(zero) => scale * (code as f32 - f32::from(*zero)),
            Levels::Zeros(zeros) => scale * (code as f32 - f32::from(zeros[group])),
            Levels::Minimum(minimum) if scale == 0.0 => minimum[group],
            Levels::Minimum(minimum) => scale * (code as f32 + minimum[group]),
            Levels::Codebook(codebook) => scale * codebook[code as usize],
        }
    }

    /// All weights, row-major.
    pub fn to_dense(&self) -> Vec<f32> {
        let columns = self.in_features;
        (0..self.out_features * columns).map(|i| self.value(i / columns, i % columns)).collect()
    }
}

pub fn words_per_row(in_features: usize, bits: u32) -> usize {
    (in_features * bits as usize).div_ceil(32)
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
        for bits in [2, 3, 4, 8] {
            let mut words = vec![0; words_per_row(45, bits)];
            let code = |i: usize| (i as u32 * 7 + 3) & (u32::MAX >> (32 - bits));
            (0..45).for_each(|i| put_code(&mut words, i, bits, code(i)));
            assert!((0..45).all(|i| get_code(&words, i, bits) == code(i)), "{bits} bits");
        }
    }
}
