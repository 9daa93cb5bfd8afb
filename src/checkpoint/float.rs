//! Little-endian float bytes ↔ values. Never assumes alignment: a file may put a tensor anywhere.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::quant::FloatType;

/// Values in the type they are stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Values {
    pub fn read(dtype: FloatType, bytes: &[u8]) -> Self {
        match dtype {
            FloatType::F32 => Self::F32(decode(dtype, bytes)),
            FloatType::F16 => Self::F16(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b)).collect()),
            FloatType::BF16 => {
                Self::Bf16(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b)).collect())
            }
        }
    }

    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::F16(values) => values.into_iter().map(f16::to_f32).collect(),
            Self::Bf16(values) => values.into_iter().map(bf16::to_f32).collect(),
        }
    }
}

pub fn bytes_per_value(dtype: FloatType) -> usize {
    match dtype {
        FloatType::F32 => 4,
        FloatType::F16 | FloatType::BF16 => 2,
    }
}

/// All values of `bytes`; a trailing partial value is ignored, callers have checked the length.
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

pub fn decode_into(dtype: FloatType, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        FloatType::F32 => {
            for (v, &b) in values.iter_mut().zip(bytes.as_chunks().0) {
                *v = f32::from_le_bytes(b);
            }
        }
        FloatType::F16 => in_runs(bytes, values, f16::from_le_bytes, <[f16]>::convert_to_f32_slice),
        FloatType::BF16 => in_runs(bytes, values, bf16::from_le_bytes, <[bf16]>::convert_to_f32_slice),
    }
}

/// `convert` is fast with slices, which bytes at any address are not.
fn in_runs<T: Copy + Default>(
    bytes: &[u8],
    values: &mut [f32],
    from_bytes: fn([u8; 2]) -> T,
    convert: fn(&[T], &mut [f32]),
) {
    const RUN: usize = 512;
    let mut run = [T::default(); RUN];
    for (bytes, values) in bytes.as_chunks().0.chunks(RUN).zip(values.chunks_mut(RUN)) {
        run.iter_mut().zip(bytes).for_each(|(value, bytes)| *value = from_bytes(*bytes));
        let count = bytes.len().min(values.len());
        convert(&run[..count], &mut values[..count]);
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
