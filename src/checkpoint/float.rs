//! Little-endian float bytes ↔ values. Assumes no alignment: a tensor may begin at any byte of a file.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::kernels::multiversion;
use crate::packed::FloatType;

/// Float values in their stored type.
#[derive(Debug, Clone, PartialEq)]
pub enum DenseValues {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl DenseValues {
    pub fn read(dtype: FloatType, bytes: &[u8]) -> Self {
        match dtype {
            FloatType::F32 => Self::F32(decode(dtype, bytes)),
            FloatType::F16 => Self::F16(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b)).collect()),
            FloatType::BF16 => {
                Self::Bf16(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b)).collect())
            }
        }
    }

    /// The first value that is NaN or infinite, with its index.
    pub fn not_finite(&self) -> Option<(usize, f32)> {
        match self {
            Self::F32(values) => first_not_finite(values, |value| value),
            Self::F16(values) => first_not_finite(values, f16::to_f32),
            Self::Bf16(values) => first_not_finite(values, bf16::to_f32),
        }
    }

    /// The values as f32.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::F16(values) => values.into_iter().map(f16::to_f32).collect(),
            Self::Bf16(values) => values.into_iter().map(bf16::to_f32).collect(),
        }
    }
}

/// The first of `values` that is NaN or infinite as f32, with its index.
pub fn first_not_finite<T: Copy + Sync>(
    values: &[T],
    to_f32: impl Fn(T) -> f32 + Sync,
) -> Option<(usize, f32)> {
    let at = values.par_iter().with_min_len(1 << 14).position_first(|value| !to_f32(*value).is_finite())?;
    Some((at, to_f32(values[at])))
}

/// The first of the stored values that is NaN or infinite, with its index.
pub fn not_finite(dtype: FloatType, bytes: &[u8]) -> Option<(usize, f32)> {
    /// Values per task.
    const CHUNK: usize = 1 << 16;
    let width = bytes_per_value(dtype);
    let bad = |bytes: &[u8]| -> bool {
        // All bits of the exponent are set. There is no branch inside the loop, so that it is vectorized.
        let halves = |exponent: u16| {
            let values = bytes.as_chunks::<2>().0.iter().map(|stored| u16::from_le_bytes(*stored));
            values.fold(false, |bad, bits| bad | (bits & exponent == exponent))
        };
        match dtype {
            FloatType::F16 => halves(0x7c00),
            FloatType::BF16 => halves(0x7f80),
            FloatType::F32 => {
                let values = bytes.as_chunks::<4>().0.iter().map(|stored| u32::from_le_bytes(*stored));
                values.fold(false, |bad, bits| bad | (bits & 0x7f80_0000 == 0x7f80_0000))
            }
        }
    };
    let chunks = bytes.par_chunks(CHUNK * width).enumerate();
    let (chunk, bytes) = chunks.find_first(|(_, bytes)| bad(bytes))?;
    let values = decode(dtype, bytes);
    let at = values.iter().position(|value| !value.is_finite())?;
    Some((chunk * CHUNK + at, values[at]))
}

pub fn bytes_per_value(dtype: FloatType) -> usize {
    match dtype {
        FloatType::F32 => 4,
        FloatType::F16 | FloatType::BF16 => 2,
    }
}

/// All values of `bytes` as f32. Callers have checked the length: a trailing partial value is ignored.
pub fn decode(dtype: FloatType, bytes: &[u8]) -> Vec<f32> {
    /// Values per task: large enough that splitting costs nothing.
    const CHUNK: usize = 1 << 16;
    let width = bytes_per_value(dtype);
    let mut values = vec![0f32; bytes.len() / width];
    values
        .par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * width))
        .for_each(|(values, bytes)| decode_into(dtype, bytes, values));
    values
}

/// Converts `bytes` to f32, as many values as `values` holds.
pub fn decode_into(dtype: FloatType, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        FloatType::F32 => {
            for (v, &b) in values.iter_mut().zip(bytes.as_chunks().0) {
                *v = f32::from_le_bytes(b);
            }
        }
        FloatType::F16 => decode_f16(bytes, values),
        FloatType::BF16 => {
            for (v, &b) in values.iter_mut().zip(bytes.as_chunks().0) {
                *v = f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
            }
        }
    }
}

multiversion! {
    fn decode_f16(bytes: &[u8], values: &mut [f32]) => decode_f16_body;
}

/// Has no branches, and no values that are subnormal as f32, which are slow on some processors.
#[inline(always)]
fn decode_f16_body(bytes: &[u8], values: &mut [f32]) {
    /// The difference of the two types' exponent biases, at the position of an f32's exponent.
    const BIAS: u32 = (127 - 15) << 23;
    const SMALLEST: f32 = f32::from_bits(BIAS + (1 << 23));
    for (value, stored) in values.iter_mut().zip(bytes.as_chunks().0) {
        let stored = u32::from(u16::from_le_bytes(*stored));
        let (sign, amount) = ((stored & 0x8000) << 16, (stored & 0x7fff) << 13);
        let normal = amount + BIAS;
        // A subnormal f16, below 2^-14, is its bits times 2^-24.
        let small = (f32::from_bits(normal + (1 << 23)) - SMALLEST).to_bits();
        let large = normal + BIAS;
        let finite = if amount < 1 << 23 { small } else { normal };
        *value = f32::from_bits(sign | if amount < 0x1f << 23 { finite } else { large });
    }
}

/// Appends the value, rounded to `dtype`, to `bytes`.
pub fn encode_into(dtype: FloatType, value: f32, bytes: &mut Vec<u8>) {
    match dtype {
        FloatType::F32 => bytes.extend(value.to_le_bytes()),
        FloatType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
        FloatType::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
    }
}

/// The values, rounded to `dtype`.
pub fn encode(dtype: FloatType, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let values = values.into_iter();
    let mut bytes = Vec::with_capacity(values.size_hint().0 * bytes_per_value(dtype));
    values.for_each(|value| encode_into(dtype, value, &mut bytes));
    bytes
}

/// `count` tuned values, rounded to `dtype`.
///
/// # Errors
/// Another number of values; one that overflows the type or is not finite.
pub fn tuned(dtype: FloatType, values: Vec<f32>, count: usize) -> Result<Vec<u8>, String> {
    if values.len() != count {
        return Err(format!("expected {count} values, got {}", values.len()));
    }
    match values.iter().find(|value| !dtype.round(**value).is_finite()) {
        Some(value) => Err(format!("the tuned value {value:e} does not fit {dtype:?}")),
        None => Ok(encode(dtype, values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_finite_are_found_with_their_index() {
        let finite = [0.0, -0.0, 1.5, -65504.0, 6e-8];
        for (dtype, width) in [(FloatType::F32, 4), (FloatType::F16, 2), (FloatType::BF16, 2)] {
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [0, 7, (1 << 16) - 1, 1 << 16, 70_000] {
                    let mut bytes = encode(dtype, finite.into_iter().cycle().take(70_001));
                    assert_eq!(not_finite(dtype, &bytes), None);
                    let mut stored = Vec::new();
                    encode_into(dtype, wrong, &mut stored);
                    bytes[place * width..][..width].copy_from_slice(&stored);
                    let (at, value) = not_finite(dtype, &bytes).unwrap();
                    assert_eq!(
                        (at, value.to_bits() & 0x7f80_0000),
                        (place, 0x7f80_0000),
                        "{dtype:?} {wrong}"
                    );
                    assert_eq!(DenseValues::read(dtype, &bytes).not_finite().unwrap().0, place);
                }
            }
        }
    }

    #[test]
    fn every_16_bit_float_is_decoded_exactly() {
        let stored: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = stored.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        for (dtype, single) in [
            (FloatType::F16, (|bits| f16::from_bits(bits).to_f32()) as fn(u16) -> f32),
            (FloatType::BF16, |bits| bf16::from_bits(bits).to_f32()),
        ] {
            // At an odd address, too.
            for bytes in [bytes.clone(), [&[0], &bytes[..]].concat()] {
                let mut values = vec![0.0; stored.len()];
                decode_into(dtype, &bytes[bytes.len() % 2..], &mut values);
                for (bits, value) in stored.iter().zip(values) {
                    let expected = single(*bits);
                    let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
                    assert!(same, "{dtype:?} {bits:#06x}: {value:e}, not {expected:e}");
                }
            }
        }
    }
}
