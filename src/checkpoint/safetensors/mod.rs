//! Safetensors files: their tensors, and a streaming writer.
//!
//! Format: <https://huggingface.co/docs/safetensors>. The header's own rules (its length is bounded,
//! offsets are contiguous and cover the file, sizes follow from shapes) are checked by the
//! `safetensors` crate; directories with several files are read by `shards`.

mod writer;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

pub use safetensors::Dtype;
pub use writer::{ShardWriter, TensorDescription, Writer, header};

use super::tensor::TensorPlace;
use crate::error::{Error, Result};
use crate::packed::FloatType;

pub const SINGLE_FILE: &str = "model.safetensors";
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The places of a file's tensors, from its header.
///
/// # Errors
/// A damaged header.
pub fn places(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, TensorPlace>> {
    let (header, metadata) = read_header(path, bytes)?;
    let data = header + size_of::<u64>();
    let place = |name: String| {
        let info = metadata.info(&name)?;
        let range = data + info.data_offsets.0..data + info.data_offsets.1;
        Some((name, TensorPlace { dtype: info.dtype, shape: info.shape.clone(), range }))
    };
    Ok(metadata.offset_keys().into_iter().filter_map(place).collect())
}

/// The free text of a file's header; empty where it has none.
///
/// # Errors
/// A damaged header.
pub fn about(path: &Path, bytes: &[u8]) -> Result<HashMap<String, String>> {
    let (_, metadata) = read_header(path, bytes)?;
    Ok(metadata.metadata().clone().unwrap_or_default())
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata)> {
    SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::damaged(path, format!("not a complete safetensors file: {e}")))
}

/// The name of a float type in these files.
pub fn dtype(float: FloatType) -> Dtype {
    match float {
        FloatType::F32 => Dtype::F32,
        FloatType::F16 => Dtype::F16,
        FloatType::BF16 => Dtype::BF16,
    }
}
