//! Round to nearest: every group gets the scale that spans its largest weight, every weight the
//! nearest code. No calibration data.
//!
//! The formulas are those of the GPTQ reference code's `Quantizer.find_params` without `mse`
//! (Frantar et al. 2022, <https://github.com/IST-DASLab/gptq>, `quant.py`), so symmetric and
//! asymmetric results are interchangeable with other GPTQ tools. All arithmetic is f32 and ties round
//! to even, as `numpy.round` and `torch.round` do.
//!
//! The scale is rounded to the type the file will store *before* codes are chosen, so that every code
//! is the nearest one for the scale that is really used.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::packed::{Levels, PackedWeight, put_code, words_per_row};

/// The float types that checkpoints store scales (and plain tensors) in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    F32,
    F16,
    BF16,
}

impl From<FloatType> for burn::tensor::DType {
    fn from(dtype: FloatType) -> Self {
        match dtype {
            FloatType::F32 => Self::F32,
            FloatType::F16 => Self::F16,
            FloatType::BF16 => Self::BF16,
        }
    }
}

impl FloatType {
    /// The nearest value of this type (ties to even); infinite where it overflows.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    fn smallest_positive(self) -> f32 {
        match self {
            Self::F32 => f32::from_bits(1),
            Self::F16 => f16::from_bits(1).to_f32(),
            Self::BF16 => bf16::from_bits(1).to_f32(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RtnOptions {
    /// 2, 3, 4 or 8.
    pub bits: u32,
    /// Input features per group; `None`: one group per row. The last group of a row may be short.
    pub group_size: Option<usize>,
    /// One zero point 2^(bits−1) for all groups, else one per group.
    pub symmetric: bool,
    /// What the file will hold.
    pub scale_dtype: FloatType,
}

impl Default for RtnOptions {
    fn default() -> Self {
        Self { bits: 4, group_size: Some(128), symmetric: true, scale_dtype: FloatType::F16 }
    }
}

/// Rounds a dense matrix to `options.bits` bits. `code = clamp(round(w / scale) + zero, 0, 2^bits − 1)`.
///
/// # Shapes
/// `weight`: `[out_features, in_features]`, row-major f32; `shape` says both.
///
/// # Errors
/// Bits other than 2, 3, 4, 8; a group size of 0; a length that is not the shape's; a weight that is
/// NaN or infinite; a scale that does not fit `scale_dtype`.
pub fn quantize(weight: &[f32], shape: [usize; 2], options: RtnOptions) -> Result<PackedWeight> {
    let [out_features, in_features] = shape;
    check(weight, shape, options)?;
    let group_size = options.group_size.unwrap_or(in_features);
    let (groups, words) = (in_features.div_ceil(group_size), words_per_row(in_features, options.bits));

    let mut codes = vec![0u32; out_features * words];
    let mut scales = vec![0f32; out_features * groups];
    let mut zeros = vec![0u8; out_features * groups];
    codes
        .par_chunks_mut(words)
        .zip(scales.par_chunks_mut(groups))
        .zip(zeros.par_chunks_mut(groups))
        .zip(weight.par_chunks(in_features))
        .enumerate()
        .try_for_each(|(row, (((codes, scales), zeros), weight))| {
            for (g, group) in weight.chunks(group_size).enumerate() {
                let (scale, zero) = fit_group(group, options)
                    .map_err(|what| Error::invalid(format!("row {row}, group {g}: {what}"), BAD_WEIGHT))?;
                (scales[g], zeros[g]) = (scale, zero as u8);
                for (i, &w) in group.iter().enumerate() {
                    put_code(
                        codes,
                        g * group_size + i,
                        options.bits,
                        nearest_code(w, scale, zero, options.bits),
                    );
                }
            }
            Ok(())
        })?;

    let levels = match options.symmetric {
        true => Levels::Zero(1 << (options.bits - 1)),
        false => Levels::Zeros(zeros),
    };
    Ok(PackedWeight {
        out_features,
        in_features,
        bits: options.bits,
        group_size,
        codes,
        scales,
        levels,
        order: None,
    })
}

const BAD_WEIGHT: &str = "the checkpoint holds a weight that cannot be quantized; fetch it again, or use \
                          another one if its author's file has the same value";

fn check(weight: &[f32], [out_features, in_features]: [usize; 2], options: RtnOptions) -> Result<()> {
    if !matches!(options.bits, 2 | 3 | 4 | 8) {
        return Err(Error::unsupported(format!("{} bits per weight", options.bits), "use 2, 3, 4 or 8 bits"));
    }
    if options.group_size == Some(0) {
        return Err(Error::invalid("a group size of 0", "use 32, 64, 128, or one group per row"));
    }
    let elements = out_features.checked_mul(in_features);
    if elements != Some(weight.len()) || weight.is_empty() {
        return Err(Error::invalid(
            format!("a matrix of {out_features} × {in_features} with {} values", weight.len()),
            "give one value per element, and at least one",
        ));
    }
    Ok(())
}

/// The group's scale, as `scale_dtype` holds it, and its zero point.
fn fit_group(group: &[f32], options: RtnOptions) -> Result<(f32, u32), String> {
    if let Some(i) = group.iter().position(|w| !w.is_finite()) {
        return Err(format!("weight {i} of the group is {}", group[i]));
    }
    let max_code = max_code(options.bits);
    // The range always includes 0, so that a zero weight stays zero.
    let (mut min, mut max) = group.iter().fold((0f32, 0f32), |(min, max), &w| (min.min(w), max.max(w)));
    if min == 0.0 && max == 0.0 {
        (min, max) = (-1.0, 1.0);
    }
    let exact = match options.symmetric {
        true => 2.0 * max.max(-min) / max_code,
        false => (max - min) / max_code,
    };
    let mut scale = options.scale_dtype.round(exact);
    if !scale.is_finite() {
        return Err(format!("its scale {exact:e} does not fit {:?}", options.scale_dtype));
    }
    if scale == 0.0 {
        // Weights too small for the type: the smallest scale there is keeps the division defined.
        scale = options.scale_dtype.smallest_positive();
    }
    let zero = match options.symmetric {
        true => 1 << (options.bits - 1),
        false => (-min / scale).round_ties_even().clamp(0.0, max_code) as u32,
    };
    Ok((scale, zero))
}

fn nearest_code(weight: f32, scale: f32, zero: u32, bits: u32) -> u32 {
    ((weight / scale).round_ties_even() + zero as f32).clamp(0.0, max_code(bits)) as u32
}

fn max_code(bits: u32) -> f32 {
    ((1u32 << bits) - 1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Written by `scripts/fixtures_rtn.py`, an independent numpy implementation.
    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rtn/reference.json");

    fn integers(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    fn floats(value: &Value) -> Vec<f32> {
        integers(value).into_iter().map(f32::from_bits).collect()
    }

    #[test]
    fn integers_and_scales_equal_the_numpy_reference() {
        let reference: Value = serde_json::from_slice(&std::fs::read(REFERENCE).unwrap()).unwrap();
        let shape = [0, 1].map(|i| reference["shape"][i].as_u64().unwrap() as usize);
        let weight = floats(&reference["weight_bits"]);
        let cases = reference["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 4 * 2 * 3);
        for case in cases {
            let options = RtnOptions {
                bits: case["bits"].as_u64().unwrap() as u32,
                group_size: case["group_size"].as_u64().map(|g| g as usize),
                symmetric: case["symmetric"].as_bool().unwrap(),
                scale_dtype: FloatType::F16,
            };
            let packed = quantize(&weight, shape, options).unwrap();
            let codes: Vec<u32> =
                (0..shape[0] * shape[1]).map(|i| packed.code(i / shape[1], i % shape[1])).collect();
            assert_eq!(codes, integers(&case["codes"]), "{options:?}");
            assert_eq!(packed.scales, floats(&case["scale_bits"]), "{options:?}");
            let zeros: Vec<u32> = match &packed.levels {
                Levels::Zero(zero) => vec![u32::from(*zero); packed.scales.len()],
                Levels::Zeros(zeros) => zeros.iter().map(|&z| u32::from(z)).collect(),
                other => panic!("{other:?}"),
            };
            assert_eq!(zeros, integers(&case["zeros"]), "{options:?}");
        }
    }

    #[test]
    fn a_group_of_zeros_stays_zero() {
        for symmetric in [true, false] {
            let options = RtnOptions { group_size: Some(4), symmetric, ..RtnOptions::default() };
            let packed = quantize(&[0.0; 10], [2, 5], options).unwrap();
            assert!(packed.scales.iter().all(|s| *s > 0.0));
            assert_eq!(packed.to_dense(), [0.0; 10]);
        }
    }

    #[test]
    fn weights_below_the_smallest_scale_do_not_divide_by_zero() {
        let packed = quantize(&[1e-9, -1e-9], [1, 2], RtnOptions::default()).unwrap();
        assert!(packed.to_dense().iter().all(|w| w.is_finite()));
    }

    #[test]
    fn a_weight_that_is_not_finite_or_too_large_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
            let error = quantize(&[0.0, bad, 0.0, 0.0], [2, 2], RtnOptions::default()).unwrap_err();
            assert!(error.to_string().contains("row 0, group 0"), "{error}");
        }
        assert!(quantize(&[0.0; 4], [2, 2], RtnOptions { bits: 5, ..RtnOptions::default() }).is_err());
        assert!(
            quantize(&[0.0; 4], [2, 2], RtnOptions { group_size: Some(0), ..RtnOptions::default() }).is_err()
        );
        assert!(quantize(&[0.0; 4], [usize::MAX, 2], RtnOptions::default()).is_err());
    }
}
