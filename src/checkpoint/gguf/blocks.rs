//! GGML's tensor types: layouts, expansion to f32, lossless repacking, and new scales for blocks.
//!
//! ```text
//! Q4_0  18 bytes / 32   d f16 | qs 16 × u8            w = d · (q − 8)     d may be negative
//! Q4_1  20 bytes / 32   d f16 | m f16 | qs 16 × u8    w = d · q + m
//! Q8_0  34 bytes / 32   d f16 | qs 32 × i8            w = d · q
//! ```
//! Byte j of a 4-bit block holds element j in its low nibble and element j + 16 in its high nibble.
//! Source: `ggml-common.h` and `ggml-quants.c` of <https://github.com/ggml-org/ggml>.

use std::fmt;

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::super::float;
use crate::quant::FloatType;

/// Elements per block of every quantized type here.
pub const BLOCK: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    Float(FloatType),
    Q4_0,
    Q4_1,
    Q8_0,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BlockQ4_0 {
    d: [u8; 2],
    qs: [u8; 16],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BlockQ4_1 {
    d: [u8; 2],
    m: [u8; 2],
    qs: [u8; 16],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BlockQ8_0 {
    d: [u8; 2],
    qs: [i8; 32],
}

// Byte arrays only: no padding, and no alignment that the file would have to keep.
const _: () = assert!(size_of::<BlockQ4_0>() == 18 && align_of::<BlockQ4_0>() == 1);
const _: () = assert!(size_of::<BlockQ4_1>() == 20 && align_of::<BlockQ4_1>() == 1);
const _: () = assert!(size_of::<BlockQ8_0>() == 34 && align_of::<BlockQ8_0>() == 1);

impl GgmlType {
    /// `enum ggml_type`.
    pub fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::Float(FloatType::F32),
            1 => Self::Float(FloatType::F16),
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            30 => Self::Float(FloatType::BF16),
            _ => return None,
        })
    }

    /// Elements and bytes of the smallest unit.
    pub fn unit(self) -> (usize, usize) {
        match self {
            Self::Float(dtype) => (1, float::bytes_per_value(dtype)),
            Self::Q4_0 => (BLOCK, size_of::<BlockQ4_0>()),
            Self::Q4_1 => (BLOCK, size_of::<BlockQ4_1>()),
            Self::Q8_0 => (BLOCK, size_of::<BlockQ8_0>()),
        }
    }

    /// `None` for plain floats.
    pub fn quantized_bits(self) -> Option<u32> {
        match self {
            Self::Float(_) => None,
            Self::Q4_0 | Self::Q4_1 => Some(4),
            Self::Q8_0 => Some(8),
        }
    }

    /// The integer zero point of the repacked codes, where the type has no minimum.
    pub fn zero(self) -> Option<u8> {
        match self {
            Self::Q4_0 => Some(8),
            Self::Q8_0 => Some(128),
            Self::Q4_1 | Self::Float(_) => None,
        }
    }

    pub fn expand(self, bytes: &[u8], elements: usize) -> Vec<f32> {
        let mut values = vec![0f32; elements];
        self.expand_into(bytes, &mut values);
        values
    }

    /// `bytes` holds whole units, as many as `values` needs.
    pub fn expand_into(self, bytes: &[u8], values: &mut [f32]) {
        let blocks = values.as_chunks_mut::<BLOCK>().0;
        match self {
            Self::Float(dtype) => float::decode_into(dtype, bytes, values),
            Self::Q4_0 => {
                for (block, values) in bytemuck::cast_slice::<u8, BlockQ4_0>(bytes).iter().zip(blocks) {
                    let d = f16::from_le_bytes(block.d).to_f32();
                    for (j, q) in block.qs.iter().enumerate() {
                        values[j] = d * f32::from((q & 15) as i8 - 8);
                        values[j + 16] = d * f32::from((q >> 4) as i8 - 8);
                    }
                }
            }
            Self::Q4_1 => {
                for (block, values) in bytemuck::cast_slice::<u8, BlockQ4_1>(bytes).iter().zip(blocks) {
                    let (d, m) = (f16::from_le_bytes(block.d).to_f32(), f16::from_le_bytes(block.m).to_f32());
                    for (j, q) in block.qs.iter().enumerate() {
                        values[j] = d * f32::from(q & 15) + m;
                        values[j + 16] = d * f32::from(q >> 4) + m;
                    }
                }
            }
            Self::Q8_0 => {
                for (block, values) in bytemuck::cast_slice::<u8, BlockQ8_0>(bytes).iter().zip(blocks) {
                    let d = f16::from_le_bytes(block.d).to_f32();
                    for (q, value) in block.qs.iter().zip(values) {
                        *value = d * f32::from(*q);
                    }
                }
            }
        }
    }

    /// One row's codes in `PackedWeight`'s order. Plain floats have none.
    pub fn repack_into(self, bytes: &[u8], codes: &mut [u32]) {
        match self {
            Self::Float(_) => {}
            Self::Q4_0 => {
                for (block, words) in
                    bytemuck::cast_slice::<u8, BlockQ4_0>(bytes).iter().zip(codes.as_chunks_mut().0)
                {
                    *words = nibbles(&block.qs);
                }
            }
            Self::Q4_1 => {
                for (block, words) in
                    bytemuck::cast_slice::<u8, BlockQ4_1>(bytes).iter().zip(codes.as_chunks_mut().0)
                {
                    *words = nibbles(&block.qs);
                }
            }
            Self::Q8_0 => {
                for (block, words) in
                    bytemuck::cast_slice::<u8, BlockQ8_0>(bytes).iter().zip(codes.chunks_exact_mut(8))
                {
                    for (word, q) in words.iter_mut().zip(block.qs.as_chunks::<4>().0) {
                        // i8 + 128 is the byte with its top bit flipped.
                        *word = u32::from_le_bytes(q.map(|q| q as u8 ^ 0x80));
                    }
                }
            }
        }
    }

    /// Appends one row's block scales; for Q4_1 also the minima in units of the scale, m / d. Where d is
    /// 0 the block is constant and its minimum is m itself.
    pub fn scales_into(self, bytes: &[u8], scales: &mut Vec<f32>, minima: &mut Vec<f32>) {
        let scale = |d: [u8; 2]| f16::from_le_bytes(d).to_f32();
        match self {
            Self::Float(_) => {}
            Self::Q4_0 => {
                scales.extend(bytemuck::cast_slice::<u8, BlockQ4_0>(bytes).iter().map(|b| scale(b.d)))
            }
            Self::Q8_0 => {
                scales.extend(bytemuck::cast_slice::<u8, BlockQ8_0>(bytes).iter().map(|b| scale(b.d)))
            }
            Self::Q4_1 => {
                for block in bytemuck::cast_slice::<u8, BlockQ4_1>(bytes) {
                    let (d, m) = (scale(block.d), scale(block.m));
                    scales.push(d);
                    minima.push(if d == 0.0 { m } else { m / d });
                }
            }
        }
    }

    /// Gives one row's blocks new scales; a minimum moves by the same factor. Blocks whose scale is 0
    /// stay as they are.
    pub fn rescale(self, bytes: &mut [u8], scales: &[f32]) -> Result<(), String> {
        match self {
            Self::Float(_) => {}
            Self::Q4_0 => {
                for (block, &scale) in bytemuck::cast_slice_mut::<u8, BlockQ4_0>(bytes).iter_mut().zip(scales)
                {
                    block.d = rescaled(block.d, scale)?;
                }
            }
            Self::Q8_0 => {
                for (block, &scale) in bytemuck::cast_slice_mut::<u8, BlockQ8_0>(bytes).iter_mut().zip(scales)
                {
                    block.d = rescaled(block.d, scale)?;
                }
            }
            Self::Q4_1 => {
                for (block, &scale) in bytemuck::cast_slice_mut::<u8, BlockQ4_1>(bytes).iter_mut().zip(scales)
                {
                    let old = block.d;
                    block.d = rescaled(old, scale)?;
                    if block.d != old {
                        let [m, d, new_d] = [block.m, old, block.d].map(|b| f16::from_le_bytes(b).to_f32());
                        let new_m = f16::from_f32(new_d * (m / d));
                        if !new_m.is_finite() {
                            return Err(format!("the tuned minimum of scale {scale:e} does not fit f16"));
                        }
                        block.m = new_m.to_le_bytes();
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(dtype) => write!(f, "{dtype:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What a type that cannot be read is called.
pub fn type_name(id: u32) -> String {
    let name = match id {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("type {id}"),
    };
    name.to_owned()
}

/// A block's 32 codes in order: bytes 0..16 hold elements 0..16 low and 16..32 high.
fn nibbles(qs: &[u8; 16]) -> [u32; 4] {
    let pack = |first: usize, shift: u8| {
        (0..8).fold(0u32, |word, i| word | u32::from(qs[first + i] >> shift & 15) << (4 * i))
    };
    [pack(0, 0), pack(8, 0), pack(0, 4), pack(8, 4)]
}

fn rescaled(old: [u8; 2], scale: f32) -> Result<[u8; 2], String> {
    if f16::from_le_bytes(old).to_f32() == 0.0 {
        return Ok(old);
    }
    let new = f16::from_f32(scale);
    match new.is_finite() {
        true => Ok(new.to_le_bytes()),
        false => Err(format!("the tuned scale {scale:e} does not fit f16")),
    }
}
