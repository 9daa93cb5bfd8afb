//! The tensor of a linear's scales, its values and how it holds other ones; and float minima of groups, which move with
//! the scales by the same factor, so that a group is scaled as a whole.

use super::bytes::transpose;
use super::tensors::{LinearTensors, TensorRole, finite_floats};
use crate::checkpoint::float;
use crate::checkpoint::tensor::StoredTensor;
use crate::error::{Error, Result};
use crate::packed::{FloatType, Levels};

/// The tensor of scales, which training changes.
pub struct StoredScales<'a> {
    tensor: StoredTensor<'a>,
    /// `[out, groups]`, which the tensor holds in this order or transposed.
    shape: [usize; 2],
    transposed: bool,
    /// The scales `[out, groups]` as f32, where the tensor holds them quantized.
    expanded: Option<Vec<f32>>,
}

impl<'a> StoredScales<'a> {
    /// `shape`: `[out, groups]`; `expanded`: the values of quantized scales.
    ///
    /// # Errors
    /// There is no tensor of scales.
    pub fn open(tensors: &LinearTensors<'a>, shape: [usize; 2], expanded: Option<Vec<f32>>) -> Result<Self> {
        let plain = tensors.get(TensorRole::Scales);
        let tensor = plain.or_else(|| tensors.get(TensorRole::TransposedScales));
        let no_scales = || Error::internal("a format of quantized linears without scales");
        let (tensor, transposed) = (*tensor.ok_or_else(no_scales)?, plain.is_none());
        Ok(Self { tensor, shape, transposed, expanded })
    }

    pub fn tensor(&self) -> &StoredTensor<'a> {
        &self.tensor
    }

    /// `[out, groups]`
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// `[out, groups]`
    ///
    /// # Errors
    /// A scale that is not finite.
    pub fn values(&self) -> Result<Vec<f32>> {
        let stored = self.expanded.clone().map_or_else(|| self.tensor.floats(), Ok)?;
        if stored.iter().any(|scale| !scale.is_finite()) {
            return Err(self.tensor.wrong("holds a scale that is not finite"));
        }
        Ok(if self.transposed { transpose(&stored, self.shape[1], |scale| scale) } else { stored })
    }

    /// `scales` (`[out, groups]`) rounded to the type of the file.
    ///
    /// # Errors
    /// Another number of scales; one that overflows the type or is not finite.
    pub fn rounded(&self, scales: &[f32]) -> Result<Vec<f32>> {
        let dtype = self.dtype()?;
        Ok(self.checked(scales)?.into_iter().map(|scale| dtype.round(scale)).collect())
    }

    /// The tensor's bytes for `scales` (`[out, groups]`).
    ///
    /// # Errors
    /// As [`Self::rounded`]; a tensor that holds scales quantized.
    pub fn encode(&self, scales: &[f32]) -> Result<Vec<u8>> {
        let dtype = self.tensor.float_type()?;
        let checked = self.checked(scales)?;
        let stored =
            if self.transposed { transpose(&checked, self.shape[0], |scale| scale) } else { checked };
        Ok(float::encode(dtype, stored))
    }

    /// Type of the scales in a tuned copy, where quantized ones are expanded.
    pub fn dtype(&self) -> Result<FloatType> {
        if self.expanded.is_some() { Ok(FloatType::F32) } else { self.tensor.float_type() }
    }

    /// The new scales, except where the stored one is 0: such a group is constant and is not trained.
    fn checked(&self, scales: &[f32]) -> Result<Vec<f32>> {
        let dtype = self.dtype()?;
        let stored = self.values()?;
        if scales.len() != stored.len() {
            let what = format!("expected {} scales, got {}", stored.len(), scales.len());
            return Err(self.tensor.wrong(what));
        }
        let checked = stored.iter().zip(scales).map(|(&old, &new)| match old == 0.0 {
            true => Ok(old),
            false if dtype.round(new).is_finite() => Ok(new),
            false => Err(self.tensor.overflow(format!("the tuned scale {new:e} does not fit {dtype:?}"))),
        });
        checked.collect()
    }
}

/// Minima in units of the scales. Where a scale is 0 the group is constant, and the level is the minimum itself.
pub fn minima_levels(scales: &[f32], minima: Vec<f32>) -> Levels {
    let units = |(minimum, scale): (f32, &f32)| if *scale == 0.0 { minimum } else { minimum / scale };
    Levels::Minimum(minima.into_iter().zip(scales).map(units).collect())
}

/// The new scales and the minima that moved with them, both rounded to the type of the file.
///
/// # Errors
/// A scale or a minimum that overflows that type or is not finite.
pub fn moved_minima(
    stored: &StoredTensor,
    scales: &StoredScales,
    new: &[f32],
) -> Result<(Vec<f32>, Vec<f32>)> {
    let (dtype, new) = (stored.float_type()?, scales.rounded(new)?);
    let (old, mut minima) = (scales.values()?, finite_floats(stored, "a bias")?);
    for (minimum, (new, old)) in minima.iter_mut().zip(new.iter().zip(old)) {
        if *new != old {
            *minimum = dtype.round(new * (*minimum / old));
            if !minimum.is_finite() {
                let what = format!("the bias of the tuned scale {new:e} does not fit {dtype:?}");
                return Err(stored.overflow(what));
            }
        }
    }
    Ok((new, minima))
}
