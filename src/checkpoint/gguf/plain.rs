//! Tensors that are stored as floats, byte by byte.

use std::borrow::Cow;

use super::Gguf;
use super::blocks::GgmlType;
use super::names::RowOrder;
use crate::error::Result;
use crate::packed::FloatType;

impl Gguf {
    /// `None`: the tensor is stored in blocks of a quantized type.
    pub fn float_type(&self, name: &str) -> Result<Option<FloatType>> {
        Ok(match self.stored(name)?.info.kind {
            GgmlType::Float(dtype) => Some(dtype),
            _ => None,
        })
    }

    /// The tensor's bytes, its rows in Hugging Face order.
    pub fn bytes_in_order(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let stored = self.stored(name)?;
        Ok(match stored.order {
            RowOrder::HuggingFace => Cow::Borrowed(stored.bytes),
            RowOrder::Interleaved { .. } => {
                let rows: Vec<&[u8]> = (0..stored.info.rows()).map(|row| stored.row(row)).collect();
                Cow::Owned(rows.concat())
            }
        })
    }
}
