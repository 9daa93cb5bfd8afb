//! A tensor as it lies in a file of a Hugging Face directory. Knows no container and no tensor's meaning.

use std::ops::Range;
use std::path::Path;

use ::safetensors::Dtype;

use super::float;
use crate::error::{Error, Result, nearest};
use crate::packed::FloatType;

/// Type and shape of a tensor, and its place in a file: row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// The tensor's bytes in the file; their number follows from type and shape.
    pub range: Range<usize>,
}

/// A tensor's bytes as they lie in the file.
#[derive(Clone, Copy)]
pub struct StoredTensor<'a> {
    pub path: &'a Path,
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl StoredTensor<'_> {
    /// # Errors
    /// The type is not f32, f16 or bf16.
    pub fn float_type(&self) -> Result<FloatType> {
        match self.dtype {
            Dtype::F32 => Ok(FloatType::F32),
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::BF16 => Ok(FloatType::BF16),
            other => Err(Error::unsupported(
                format!("{}: tensor `{}` is stored as {other:?}", self.path.display(), self.name),
                "weights stored as F32, F16 or BF16 can be read",
            )),
        }
    }

    pub fn floats(&self) -> Result<Vec<f32>> {
        Ok(float::decode(self.float_type()?, self.bytes))
    }

    /// The tensor's bytes with other values, rounded to its type. A value that rounds to the stored one keeps its bytes: a
    /// zero keeps its sign.
    ///
    /// # Errors
    /// Another number of values; one that overflows the type or is not finite.
    pub fn tuned_bytes(&self, values: Vec<f32>) -> Result<Vec<u8>> {
        let (dtype, count) = (self.float_type()?, self.shape.iter().product());
        let keep = |(old, new): (f32, &f32)| if old == dtype.round(*new) { old } else { *new };
        let kept = self.floats()?.into_iter().zip(&values).map(keep);
        let values = if values.len() == count { kept.collect() } else { values };
        float::tuned(dtype, values, count).map_err(|what| self.overflow(what))
    }

    /// Whether all its values are floats of 0.
    pub fn is_zero(&self) -> bool {
        self.floats().is_ok_and(|values| values.iter().all(|value| *value == 0.0))
    }

    /// The values of an i32 or i64 tensor.
    ///
    /// # Errors
    /// Another type; a value that does not fit i32.
    pub fn integers(&self) -> Result<Vec<i32>> {
        match self.dtype {
            Dtype::I32 => Ok(self.bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect()),
            Dtype::I64 => (self.bytes.as_chunks().0.iter())
                .map(|&b| i64::from_le_bytes(b).try_into().map_err(|_| self.wrong("a value exceeds 32 bits")))
                .collect(),
            other => Err(self.wrong(format!("expected integers (I32), got {other:?}"))),
        }
    }

    /// # Errors
    /// The tensor has another shape.
    pub fn expect_shape(&self, shape: &[usize]) -> Result<()> {
        match self.shape == shape {
            true => Ok(()),
            false => Err(self.wrong(format!("expected shape {shape:?}, got {:?}", self.shape))),
        }
    }

    pub fn wrong(&self, what: impl Into<String>) -> Error {
        Error::tensor(self.path, self.name, what)
    }

    /// See [`Error::overflow`].
    pub fn overflow(&self, what: String) -> Error {
        Error::overflow(self.path, self.name, what)
    }
}

/// The error for a name that no tensor has, with the nearest one that exists.
pub fn missing<'a>(path: &Path, name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let hint =
        nearest(name, names).map(|near| format!(" (the nearest name is `{near}`)")).unwrap_or_default();
    Error::tensor(path, name, format!("not in the checkpoint{hint}"))
}

/// The module that a weight belongs to, by its name.
pub fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}
