//! The tensors that are no quantized linears, as a Hugging Face directory holds them: norms, biases,
//! embeddings, and linears where they are floats.

use std::borrow::Cow;

use super::safetensors::{Dtype, dtype};
use super::{Checkpoint, Source, float};
use crate::error::Result;
use crate::packed::FloatType;

impl Checkpoint {
    /// Byte-sorted.
    pub(super) fn plain_names(&self) -> Vec<String> {
        match &self.source {
            Source::HuggingFace(directory) => {
                let tables = directory.packed_names().filter(|name| directory.is_packed_table(name));
                let mut names: Vec<_> = directory.plain_names().chain(tables).map(str::to_owned).collect();
                names.sort_unstable();
                names
            }
            Source::Gguf(_) | Source::Synthetic(_) => {
                let packed = self.trained_names();
                let names = self.config.tensors().map(|(name, _)| name);
                let mut names: Vec<_> = names.filter(|name| packed.binary_search(name).is_err()).collect();
                names.sort_unstable();
                names
            }
        }
    }

    /// Whether [`Self::plain_bytes`] are all that the file says.
    pub(super) fn plain_is_exact(&self, name: &str) -> bool {
        match &self.source {
            Source::HuggingFace(directory) => !directory.is_packed_table(name),
            Source::Gguf(gguf) => !gguf.is_quantized(name),
            Source::Synthetic(_) => false,
        }
    }

    pub(super) fn plain_layout(&self, name: &str) -> Result<(Dtype, Vec<usize>)> {
        match &self.source {
            Source::HuggingFace(directory) if directory.is_packed_table(name) => {
                Ok((Dtype::F16, directory.shape(name)?))
            }
            Source::HuggingFace(directory) => {
                let tensor = directory.shards().tensor(name)?;
                Ok((tensor.dtype, tensor.shape.to_vec()))
            }
            Source::Gguf(gguf) => {
                Ok((dtype(gguf.float_type(name)?.unwrap_or(FloatType::F16)), gguf.shape(name)?))
            }
            Source::Synthetic(_) => Err(self.no_file()),
        }
    }

    /// The tensor's bytes in Hugging Face order: from the map where they lie so, rounded to f16 where they
    /// are blocks of a quantized type.
    ///
    /// # Errors
    /// A float that is NaN or infinite, or becomes so.
    pub(super) fn plain_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let bytes = self.unchecked_bytes(name)?;
        let stored = [FloatType::F32, FloatType::F16, FloatType::BF16];
        let (layout, _) = self.plain_layout(name)?;
        if let Some(float) = stored.into_iter().find(|float| dtype(*float) == layout) {
            self.expect_finite(name, float::not_finite(float, &bytes))?;
        }
        Ok(bytes)
    }

    fn unchecked_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match &self.source {
            Source::HuggingFace(directory) if directory.is_packed_table(name) => {
                Ok(Cow::Owned(float::encode(FloatType::F16, self.dense(name)?)))
            }
            Source::HuggingFace(directory) => Ok(Cow::Borrowed(directory.shards().tensor(name)?.bytes)),
            Source::Gguf(gguf) => match gguf.float_type(name)? {
                Some(dtype) if self.shifts(name) => {
                    let values = gguf.dense(name)?;
                    Ok(Cow::Owned(float::encode(dtype, values.into_iter().map(|value| value - 1.0))))
                }
                Some(_) => gguf.bytes_in_order(name),
                None => Ok(Cow::Owned(float::encode(FloatType::F16, self.dense(name)?))),
            },
            Source::Synthetic(_) => Err(self.no_file()),
        }
    }

    /// Whether a norm's weights are stored less 1 in Hugging Face's directories, and not here.
    fn shifts(&self, name: &str) -> bool {
        self.config.architecture.starts_with("Gemma")
            && name.contains("norm")
            && self.config.norm_offset == 0.0
    }
}
