//! GGML's block types as a file stores them, one struct each.
//!
//! ```text
//! Q4_0   18 bytes /  32   d | qs 16                           w = d · (q − 8)           d may be negative
//! Q4_1   20 bytes /  32   d | m | qs 16                       w = d · q + m
//! Q5_0   22 bytes /  32   d | qh 4 | qs 16                    w = d · (q − 16)
//! Q5_1   24 bytes /  32   d | m | qh 4 | qs 16                w = d · q + m
//! Q8_0   34 bytes /  32   d | qs 32 × i8                      w = d · q
//! Q2_K   84 bytes / 256   scales 16 | qs 64 | d | dmin        w = d · s · q − dmin · m        s, m of 16
//! Q3_K  110 bytes / 256   hmask 32 | qs 64 | scales 12 | d    w = d · (s − 32) · (q − 4)      s of 16
//! Q4_K  144 bytes / 256   d | dmin | scales 12 | qs 128       w = d · s · q − dmin · m        s, m of 32
//! Q5_K  176 bytes / 256   d | dmin | scales 12 | qh 32 | qs 128                   the same
//! Q6_K  210 bytes / 256   ql 128 | qh 64 | scales 16 × i8 | d    w = d · s · (q − 32)         s of 16
//! ```
//! d, m and dmin are f16. In a block of 32, byte j of `qs` holds element j in its low nibble and element j + 16 in its high
//! one, and bit j of `qh` is the fifth bit of element j. A block of 256 (llama.cpp: a super-block) has eight runs of 32
//! elements, whose elements j share the bytes j; the scales s belong to sub-blocks of 16 or 32. In a packed weight it is a
//! group with [`Blocks`](crate::packed::Blocks).
//! Source: `ggml-common.h` and `ggml-quants.c` of <https://github.com/ggml-org/ggml>.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

/// `w = d · factor · (code − ZERO) + MINIMUM · m · minimum`, with a factor and a minimum for every `WIDTH` elements.
pub trait GgmlBlock: Pod {
    const NAME: &str;
    /// Bits per code.
    const BITS: u32;
    const ZERO: u8 = 0;
    /// The sign of the float after `d`: 1 where it is added, −1 where it is subtracted, `None` where there is none.
    const MINIMUM: Option<f32> = None;
    /// The offset of `d` in the block.
    const SCALE: usize = 0;
    const ELEMENTS: usize = size_of::<Self::Codes>();
    const WIDTH: usize = Self::ELEMENTS;
    /// The codes, one byte each.
    type Codes: AsRef<[u8]>;

    /// The codes in the order of the elements, unsigned.
    fn codes(&self) -> Self::Codes;

    /// The integer scales and minima of its sub-blocks.
    fn integers(&self) -> Integers {
        Integers { factors: [1; _], minima: [1; _] }
    }
}

/// The integer scales and minima of a block's sub-blocks, as many as it has.
pub struct Integers {
    pub factors: [i8; 16],
    pub minima: [u8; 16],
}

/// Defines a block of byte arrays, so that it has no padding and needs no alignment in the file.
macro_rules! block {
    ($name:ident, $bytes:literal, $($field:ident: $type:ty),+) => {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name {
            $($field: $type),+
        }
        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() == 1);
    };
}

block!(Q4_0, 18, d: [u8; 2], qs: [u8; 16]);
block!(Q4_1, 20, d: [u8; 2], m: [u8; 2], qs: [u8; 16]);
block!(Q5_0, 22, d: [u8; 2], qh: [u8; 4], qs: [u8; 16]);
block!(Q5_1, 24, d: [u8; 2], m: [u8; 2], qh: [u8; 4], qs: [u8; 16]);
block!(Q8_0, 34, d: [u8; 2], qs: [u8; 32]);
block!(Q2K, 84, scales: [u8; 16], qs: [u8; 64], d: [u8; 2], dmin: [u8; 2]);
block!(Q3K, 110, hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: [u8; 2]);
block!(Q4K, 144, d: [u8; 2], dmin: [u8; 2], scales: [u8; 12], qs: [u8; 128]);
block!(Q5K, 176, d: [u8; 2], dmin: [u8; 2], scales: [u8; 12], qh: [u8; 32], qs: [u8; 128]);
block!(Q6K, 210, ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: [u8; 2]);

impl GgmlBlock for Q4_0 {
    const NAME: &str = "Q4_0";
    const BITS: u32 = 4;
    const ZERO: u8 = 8;
    type Codes = [u8; 32];

    fn codes(&self) -> [u8; 32] {
        nibbles(&self.qs)
    }
}

impl GgmlBlock for Q4_1 {
    const NAME: &str = "Q4_1";
    const BITS: u32 = 4;
    const MINIMUM: Option<f32> = Some(1.0);
    type Codes = [u8; 32];

    fn codes(&self) -> [u8; 32] {
        nibbles(&self.qs)
    }
}

impl GgmlBlock for Q5_0 {
    const NAME: &str = "Q5_0";
    const BITS: u32 = 5;
    const ZERO: u8 = 16;
    type Codes = [u8; 32];

    fn codes(&self) -> [u8; 32] {
        with_fifth_bits(nibbles(&self.qs), self.qh)
    }
}

impl GgmlBlock for Q5_1 {
    const NAME: &str = "Q5_1";
    const BITS: u32 = 5;
    const MINIMUM: Option<f32> = Some(1.0);
    type Codes = [u8; 32];

    fn codes(&self) -> [u8; 32] {
        with_fifth_bits(nibbles(&self.qs), self.qh)
    }
}

impl GgmlBlock for Q8_0 {
    const NAME: &str = "Q8_0";
    const BITS: u32 = 8;
    const ZERO: u8 = 128;
    type Codes = [u8; 32];

    fn codes(&self) -> [u8; 32] {
        // i8 + 128 is the byte with its top bit flipped.
        self.qs.map(|q| q ^ 0x80)
    }
}

impl GgmlBlock for Q2K {
    const NAME: &str = "Q2_K";
    const BITS: u32 = 2;
    const MINIMUM: Option<f32> = Some(-1.0);
    const SCALE: usize = offset_of!(Self, d);
    const WIDTH: usize = 16;
    type Codes = [u8; 256];

    fn codes(&self) -> [u8; 256] {
        runs(|run, j| self.qs[run / 4 * 32 + j] >> (run % 4 * 2) & 3)
    }

    fn integers(&self) -> Integers {
        Integers { factors: self.scales.map(|s| (s & 15) as i8), minima: self.scales.map(|s| s >> 4) }
    }
}

impl GgmlBlock for Q3K {
    const NAME: &str = "Q3_K";
    const BITS: u32 = 3;
    const ZERO: u8 = 4;
    const SCALE: usize = offset_of!(Self, d);
    const WIDTH: usize = 16;
    type Codes = [u8; 256];

    fn codes(&self) -> [u8; 256] {
        runs(|run, j| self.qs[run / 4 * 32 + j] >> (run % 4 * 2) & 3 | (self.hmask[j] >> run & 1) << 2)
    }

    fn integers(&self) -> Integers {
        let (low, high) = self.scales.split_at(8);
        let scale = |i: usize| low[i % 8] >> (i / 8 * 4) & 15 | (high[i % 4] >> (i / 4 * 2) & 3) << 4;
        Integers { factors: std::array::from_fn(|i| scale(i) as i8 - 32), minima: [0; _] }
    }
}

impl GgmlBlock for Q4K {
    const NAME: &str = "Q4_K";
    const BITS: u32 = 4;
    const MINIMUM: Option<f32> = Some(-1.0);
    const WIDTH: usize = 32;
    type Codes = [u8; 256];

    fn codes(&self) -> [u8; 256] {
        runs(|run, j| self.qs[run / 2 * 32 + j] >> (run % 2 * 4) & 15)
    }

    fn integers(&self) -> Integers {
        six_bit_pairs(&self.scales)
    }
}

impl GgmlBlock for Q5K {
    const NAME: &str = "Q5_K";
    const BITS: u32 = 5;
    const MINIMUM: Option<f32> = Some(-1.0);
    const WIDTH: usize = 32;
    type Codes = [u8; 256];

    fn codes(&self) -> [u8; 256] {
        runs(|run, j| self.qs[run / 2 * 32 + j] >> (run % 2 * 4) & 15 | (self.qh[j] >> run & 1) << 4)
    }

    fn integers(&self) -> Integers {
        six_bit_pairs(&self.scales)
    }
}

impl GgmlBlock for Q6K {
    const NAME: &str = "Q6_K";
    const BITS: u32 = 6;
    const ZERO: u8 = 32;
    const SCALE: usize = offset_of!(Self, d);
    const WIDTH: usize = 16;
    type Codes = [u8; 256];

    fn codes(&self) -> [u8; 256] {
        runs(|run, j| {
            let (half, quarter) = (run / 4, run % 4);
            let low = self.ql[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
            low | (self.qh[half * 32 + j] >> (quarter * 2) & 3) << 4
        })
    }

    fn integers(&self) -> Integers {
        Integers { factors: self.scales, minima: [0; _] }
    }
}

fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| qs[i % 16] >> (i / 16 * 4) & 15)
}

fn with_fifth_bits(codes: [u8; 32], qh: [u8; 4]) -> [u8; 32] {
    let qh = u32::from_le_bytes(qh);
    std::array::from_fn(|i| codes[i] | ((qh >> i & 1) as u8) << 4)
}

/// The codes of eight runs of 32 elements: `code` gives element `j` of a run.
#[inline(always)]
fn runs(code: impl Fn(usize, usize) -> u8) -> [u8; 256] {
    let mut codes = [0; 256];
    for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (j, out) in codes.iter_mut().enumerate() {
            *out = code(run, j);
        }
    }
    codes
}

/// Unpacks eight scales and eight minima of six bits. The first four of each lie in bytes 0 to 3 and 4 to 7; the others
/// have their low nibbles in bytes 8 to 11, and their high bits above the first four.
fn six_bit_pairs(scales: &[u8; 12]) -> Integers {
    let [mut factors, mut minima] = [[0; 16], [0; 16]];
    for i in 0..4 {
        let (scale, minimum, rest) = (scales[i], scales[i + 4], scales[i + 8]);
        (factors[i], minima[i]) = (scale & 63, minimum & 63);
        (factors[i + 4], minima[i + 4]) = (rest & 15 | scale >> 6 << 4, rest >> 4 | minimum >> 6 << 4);
    }
    Integers { factors: factors.map(|factor| factor as i8), minima }
}
