//! GGML's tensor types: expansion to f32, lossless repacking, and new scales for blocks. Training changes a block's f16
//! scale `d` and, by the same factor, the minimum beside it; integer scales inside the block stay.
//!
//! To add a type: its layout in `layout`, and its name and number here.

mod layout;

use std::fmt;
use std::ops::Range;

use half::f16;

use self::layout::GgmlBlock;
use crate::checkpoint::float;
use crate::packed::FloatType;
use crate::packed::{Levels, LevelsKind, SubBlocks, pack_codes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    Float(FloatType),
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// The layout of a block type, as far as code outside this folder needs it.
#[derive(Debug, Clone, Copy)]
pub struct BlockLayout {
    pub elements: usize,
    pub bytes: usize,
    /// Bits per code.
    pub bits: u32,
    pub levels: LevelsKind,
    /// The offset of the f16 scale. A minimum, if there is one, follows it.
    scale: usize,
    has_minimum: bool,
}

impl BlockLayout {
    /// The range of bytes that training may change.
    fn floats(&self) -> Range<usize> {
        self.scale..self.scale + if self.has_minimum { 4 } else { 2 }
    }
}

/// Evaluates `$blocks` with `$block` as the layout of a block type, or `$floats` with the type of floats.
macro_rules! by_type {
    ($kind:expr, $block:ident => $blocks:expr, $dtype:pat => $floats:expr) => {
        by_type!(@$kind, $block => $blocks, $dtype => $floats, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K)
    };
    (@$kind:expr, $block:ident => $blocks:expr, $dtype:pat => $floats:expr, $($name:ident)+) => {
        match $kind {
            Self::Float($dtype) => $floats,
            $(Self::$name => {
                type $block = layout::$name;
                $blocks
            })+
        }
    };
}

impl GgmlType {
    /// The types that can be read, in llama.cpp's words.
    pub const READABLE: &str = "F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, Q3_K, Q2_K";

    const ALL: [Self; 13] = [
        Self::Float(FloatType::F32),
        Self::Float(FloatType::F16),
        Self::Float(FloatType::BF16),
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The value of `enum ggml_type`.
    pub fn id(self) -> u32 {
        match self {
            Self::Float(FloatType::F32) => 0,
            Self::Float(FloatType::F16) => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Float(FloatType::BF16) => 30,
        }
    }

    /// The type with a value of `enum ggml_type`; `None` where it cannot be read.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The layout of its blocks; `None` for floats.
    pub fn block(self) -> Option<BlockLayout> {
        by_type!(self, B => Some(block_layout::<B>()), _ => None)
    }

    /// Elements and bytes of the smallest unit: a block, or one float.
    pub fn unit(self) -> (usize, usize) {
        by_type!(self, B => (B::ELEMENTS, size_of::<B>()), dtype => (1, float::bytes_per_value(dtype)))
    }

    /// The first `elements` values as f32.
    pub fn expand(self, bytes: &[u8], elements: usize) -> Vec<f32> {
        let mut values = vec![0f32; elements];
        self.expand_into(bytes, &mut values);
        values
    }

    /// Expands `bytes`, which holds whole units, as many as `values` needs.
    pub fn expand_into(self, bytes: &[u8], values: &mut [f32]) {
        by_type!(self, B => expand::<B>(bytes, values), dtype => float::decode_into(dtype, bytes, values));
    }

    /// Repacks one row's codes in `PackedWeight`'s order. Floats have none.
    pub fn repack_into(self, bytes: &[u8], codes: &mut [u32]) {
        by_type!(self, B => repack::<B>(bytes, codes), _ => {});
    }

    /// The block scales of some rows, and the levels of their codes. Floats have none.
    pub fn scales<'a>(self, rows: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<f32>, Levels), String> {
        by_type!(self, B => scales::<B>(rows), _ => Ok((vec![], Levels::Zero(0))))
    }

    /// The float minima of some rows' blocks.
    pub fn minima<'a>(self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<f32>, String> {
        let layout = self.block().filter(|layout| layout.levels == LevelsKind::Minimum);
        let layout =
            layout.ok_or_else(|| format!("blocks of {self} have no minima that could be trained"))?;
        let blocks = rows.flat_map(|row| row.chunks_exact(layout.bytes));
        let minima: Vec<f32> = blocks.map(|block| float_at(block, layout.scale + 2)).collect();
        match minima.iter().all(|minimum| minimum.is_finite()) {
            true => Ok(minima),
            false => Err("holds a block minimum that is not finite".into()),
        }
    }

    /// Replaces the scales of one row's blocks, and their minima; without `minima`, these move by the same factor. Blocks
    /// whose scale is 0 keep it.
    pub fn rescale(self, bytes: &mut [u8], scales: &[f32], minima: Option<&[f32]>) -> Result<(), String> {
        let Some(layout) = self.block() else { return Ok(()) };
        let does_not_fit = |what: &str, scale: f32| format!("the tuned {what} {scale:e} does not fit f16");
        for (index, (block, &scale)) in bytes.chunks_exact_mut(layout.bytes).zip(scales).enumerate() {
            let [d, minimum @ ..] = block[layout.floats()].as_chunks_mut().0 else { continue };
            if let (Some(minima), [minimum]) = (minima, &mut *minimum) {
                let tuned = f16::from_f32(minima[index]);
                if !tuned.is_finite() {
                    return Err(does_not_fit("minimum", minima[index]));
                }
                *minimum = tuned.to_le_bytes();
            }
            let old = f16::from_le_bytes(*d).to_f32();
            let new = f16::from_f32(scale);
            if old == 0.0 || new.to_f32() == old {
                continue;
            }
            if !new.is_finite() {
                return Err(does_not_fit("scale", scale));
            }
            *d = new.to_le_bytes();
            for minimum in minimum.iter_mut().filter(|_| minima.is_none()) {
                let moved = f16::from_f32(new.to_f32() * (f16::from_le_bytes(*minimum).to_f32() / old));
                if !moved.is_finite() {
                    return Err(does_not_fit("minimum of scale", scale));
                }
                *minimum = moved.to_le_bytes();
            }
        }
        Ok(())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        by_type!(*self, B => f.write_str(B::NAME), dtype => write!(f, "{dtype:?}"))
    }
}

/// The name of a type that cannot be read.
pub fn type_name(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
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
        40 => "NVFP4",
        _ => return format!("type {id}"),
    };
    name.to_owned()
}

fn block_layout<B: GgmlBlock>() -> BlockLayout {
    let minima = B::MINIMUM.is_some();
    let levels = match B::WIDTH < B::ELEMENTS {
        true => LevelsKind::SubBlocks { width: B::WIDTH, mins: minima },
        false if minima => LevelsKind::Minimum,
        false => LevelsKind::Zero,
    };
    BlockLayout {
        elements: B::ELEMENTS,
        bytes: size_of::<B>(),
        bits: B::BITS,
        levels,
        scale: B::SCALE,
        has_minimum: minima,
    }
}

fn float_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The scale, and the float that an integer minimum of 1 adds.
fn floats<B: GgmlBlock>(block: &B) -> (f32, f32) {
    let bytes = bytemuck::bytes_of(block);
    (float_at(bytes, B::SCALE), B::MINIMUM.map_or(0.0, |sign| sign * float_at(bytes, B::SCALE + 2)))
}

fn expand<B: GgmlBlock>(bytes: &[u8], values: &mut [f32]) {
    for (block, values) in
        bytemuck::cast_slice::<u8, B>(bytes).iter().zip(values.chunks_exact_mut(B::ELEMENTS))
    {
        let ((d, m), integers, codes) = (floats(block), block.integers(), block.codes());
        let parts = values.chunks_exact_mut(B::WIDTH).zip(codes.as_ref().chunks_exact(B::WIDTH));
        for (part, (values, codes)) in parts.enumerate() {
            let scale = d * f32::from(integers.factors[part]);
            let minimum = m * f32::from(integers.minima[part]);
            for (value, code) in values.iter_mut().zip(codes) {
                *value = scale * (f32::from(*code) - f32::from(B::ZERO)) + minimum;
            }
        }
    }
}

fn repack<B: GgmlBlock>(bytes: &[u8], codes: &mut [u32]) {
    let words = B::ELEMENTS / 32 * B::BITS as usize;
    for (block, words) in bytemuck::cast_slice::<u8, B>(bytes).iter().zip(codes.chunks_exact_mut(words)) {
        pack_codes(block.codes().as_ref(), B::BITS, words);
    }
}

/// The scales and levels of some rows' blocks. Units of minima are relative to the scale; where a scale is 0, the block
/// is constant and its unit is the float itself.
fn scales<'a, B: GgmlBlock>(rows: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<f32>, Levels), String> {
    let (mut scales, mut units, mut factors, mut minima) = (vec![], vec![], vec![], vec![]);
    let (has_minimum, parts) = (B::MINIMUM.is_some(), B::ELEMENTS / B::WIDTH);
    for block in rows.flat_map(bytemuck::cast_slice::<u8, B>) {
        let (d, m) = floats(block);
        if !d.is_finite() || !m.is_finite() {
            return Err("holds a block scale or minimum that is not finite".into());
        }
        scales.push(d);
        if has_minimum {
            units.push(if d == 0.0 { m } else { m / d });
        }
        if parts > 1 {
            let integers = block.integers();
            factors.extend_from_slice(&integers.factors[..parts]);
            minima.extend_from_slice(&integers.minima[..if has_minimum { parts } else { 0 }]);
        }
    }
    let levels = if parts > 1 {
        let minima = has_minimum.then_some((minima, units));
        Levels::SubBlocks(SubBlocks::new(B::WIDTH, B::ZERO, factors, minima))
    } else if has_minimum {
        Levels::Minimum(units)
    } else {
        Levels::Zero(B::ZERO)
    };
    Ok((scales, levels))
}

#[cfg(test)]
mod tests;
