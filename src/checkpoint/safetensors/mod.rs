//! Safetensors files: their tensors, and a streaming writer.
//!
//! Format: <https://huggingface.co/docs/safetensors>. The header's own rules (its length is bounded,
//! offsets are contiguous and cover the file, sizes follow from shapes) are checked by the
//! `safetensors` crate; what a directory of them may look like is the business of `shards`.

mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;

pub use safetensors::Dtype;
pub use writer::{ShardWriter, Writer};

use super::shards::Place;
use crate::error::{Error, Result};
use crate::packed::FloatType;

pub const SINGLE_FILE: &str = "model.safetensors";
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// # Errors
/// A damaged header.
pub fn places(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Place>> {
    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::damaged(path, format!("not a complete safetensors file: {e}")))?;
    let data = header + size_of::<u64>();
    let place = |name: String| {
        let info = metadata.info(&name)?;
        let range = data + info.data_offsets.0..data + info.data_offsets.1;
        Some((name, Place { dtype: info.dtype, shape: info.shape.clone(), range }))
    };
    Ok(metadata.offset_keys().into_iter().filter_map(place).collect())
}

/// How a float type is called in these files.
pub fn dtype(float: FloatType) -> Dtype {
    match float {
        FloatType::F32 => Dtype::F32,
        FloatType::F16 => Dtype::F16,
        FloatType::BF16 => Dtype::BF16,
    }
}
