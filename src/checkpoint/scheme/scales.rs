//! The tensor of a linear's scales: what it holds, and what it can hold of others.

use super::super::float;
use super::super::shards::Tensor;
use super::bytes::transpose;
use crate::error::Result;
use crate::packed::FloatType;

/// The tensor that training changes.
pub struct StoredScales<'a> {
    tensor: Tensor<'a>,
    /// `[out, groups]`, which the tensor holds in this order or transposed.
    shape: [usize; 2],
    transposed: bool,
    /// What the tensor stands for, where it holds the scales quantized: f32 `[out, groups]`.
    expanded: Option<Vec<f32>>,
}

impl<'a> StoredScales<'a> {
    /// A tensor whose number of values was checked.
    pub fn new(tensor: Tensor<'a>, shape: [usize; 2], transposed: bool) -> Result<Self> {
        tensor.float_type()?;
        Ok(Self { tensor, shape, transposed, expanded: None })
    }

    /// Quantized scales and what they stand for, `[out, groups]`.
    pub fn expanded(tensor: Tensor<'a>, shape: [usize; 2], values: Vec<f32>) -> Self {
        Self { tensor, shape, transposed: false, expanded: Some(values) }
    }

    pub fn tensor(&self) -> &Tensor<'a> {
        &self.tensor
    }

    /// `[out, groups]`
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// `[out, groups]`
    ///
    /// # Errors
    /// One that is not finite.
    pub fn values(&self) -> Result<Vec<f32>> {
        let stored = self.expanded.clone().map_or_else(|| self.tensor.floats(), Ok)?;
        if stored.iter().any(|scale| !scale.is_finite()) {
            return Err(self.tensor.wrong("holds a scale that is not finite"));
        }
        Ok(if self.transposed { transpose(&stored, self.shape[1], |scale| scale) } else { stored })
    }

    /// What the file can hold of `scales` (`[out, groups]`).
    pub fn rounded(&self, scales: &[f32]) -> Result<Vec<f32>> {
        let dtype = self.dtype()?;
        Ok(self.checked(scales)?.into_iter().map(|scale| dtype.round(scale)).collect())
    }

    /// The tensor's bytes for `scales` (`[out, groups]`).
    ///
    /// # Errors
    /// As in `rounded`; the tensor holds them quantized.
    pub fn encode(&self, scales: &[f32]) -> Result<Vec<u8>> {
        let dtype = self.tensor.float_type()?;
        let checked = self.checked(scales)?;
        let stored =
            if self.transposed { transpose(&checked, self.shape[0], |scale| scale) } else { checked };
        let mut bytes = Vec::with_capacity(self.tensor.bytes.len());
        stored.into_iter().for_each(|value| float::encode_into(dtype, value, &mut bytes));
        Ok(bytes)
    }

    /// What the scales are rounded to: quantized ones are expanded in the tuned copy.
    fn dtype(&self) -> Result<FloatType> {
        if self.expanded.is_some() { Ok(FloatType::F32) } else { self.tensor.float_type() }
    }

    /// The new scales, where the stored ones are not 0: such a group is constant and is not trained.
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
            false => Err(self.tensor.wrong(format!("the tuned scale {new:e} does not fit {dtype:?}"))),
        });
        checked.collect()
    }
}
