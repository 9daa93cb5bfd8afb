//! PyTorch's files of weights, `pytorch_model.bin`, which some older models (OPT) have alone. Read where the tensors
//! lie in them, never written.
//!
//! ```text
//! <name>/data.pkl    a pickled dictionary: tensor names → storage, offset, shape and strides
//! <name>/data/0, 1…  the storages, each a stored (not compressed) entry of a zip file
//! <name>/byteorder   "little", in newer files
//! ```
//!
//! Format: PyTorch `torch/serialization.py`, `_save`; its `caffe2/serialize/inline_container.h`. Files that
//! PyTorch before 1.6 wrote are no zip files, and are refused.

mod pickle;

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

use ::safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use self::pickle::PickledTensor;
use super::tensor::TensorPlace;
use crate::error::{Error, Result};

pub const SINGLE_FILE: &str = "pytorch_model.bin";
pub const INDEX_FILE: &str = "pytorch_model.bin.index.json";

/// The largest dictionary that is read, in bytes: that of a model with ten thousand tensors is below 2 MB.
const MAX_PICKLE: u64 = 16 << 20;

pub fn is_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}

/// The places of the dictionary's tensors. Its other entries are no part of a model and are left out.
///
/// # Errors
/// No zip file; a damaged one, or one whose entries lie beyond its end; a tensor that is not contiguous.
pub fn places(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, TensorPlace>> {
    if !bytes.starts_with(b"PK") {
        return Err(Error::unsupported(
            format!("{}: not a zip file, as PyTorch 1.6 and later write", path.display()),
            "fetch it again, or load the model in transformers and save it with `save_pretrained`, which writes \
             safetensors",
        ));
    }
    let damaged = |what: String| Error::damaged(path, what);
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(format!("as a zip file: {e}")))?;
    let root = archive.file_names().find_map(|name| name.strip_suffix("data.pkl")).map(str::to_owned);
    let root = root.ok_or_else(|| damaged("no dictionary of tensors (data.pkl) in it".into()))?;
    let mut read = |name: &str| -> Result<Option<Vec<u8>>> {
        let Ok(file) = archive.by_name(&format!("{root}{name}")) else { return Ok(None) };
        let mut content = vec![];
        let read = file.take(MAX_PICKLE + 1).read_to_end(&mut content);
        read.map_err(|e| damaged(format!("{name}: {e}")))?;
        match content.len() as u64 > MAX_PICKLE {
            true => Err(damaged(format!("{name} is larger than {} MiB", MAX_PICKLE >> 20))),
            false => Ok(Some(content)),
        }
    };
    if read("byteorder")?.is_some_and(|order| order != b"little") {
        return Err(Error::unsupported(
            format!("{}: written on a big-endian machine", path.display()),
            "save it again on a little-endian one",
        ));
    }
    let pickle = read("data.pkl")?.ok_or_else(|| damaged("data.pkl cannot be read".into()))?;
    let stored = pickle::tensors(&pickle).map_err(|what| damaged(format!("data.pkl: {what}")))?;
    let storages = storages(&mut archive, &format!("{root}data/"), bytes.len()).map_err(damaged)?;
    let place = |(name, stored): (String, PickledTensor)| match place(&stored, &storages) {
        Ok(place) => Ok((name, place)),
        Err(what) => Err(Error::tensor(path, name, what)),
    };
    stored.into_iter().map(place).collect()
}

/// The ranges of the storages in the file, by their names.
fn storages(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    folder: &str,
    length: usize,
) -> Result<HashMap<String, Range<usize>>, String> {
    let mut found = HashMap::new();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(|e| e.to_string())?;
        let Some(key) = file.name().strip_prefix(folder) else { continue };
        if file.compression() != CompressionMethod::Stored || file.encrypted() {
            return Err(format!("data/{key} is compressed or encrypted, which PyTorch never does"));
        }
        let range = file.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(file.size()).ok()?)?;
            (end <= length).then_some(start..end)
        });
        let range = range.ok_or_else(|| format!("data/{key} ends beyond the file"))?;
        found.insert(key.to_owned(), range);
    }
    Ok(found)
}

fn place(stored: &PickledTensor, storages: &HashMap<String, Range<usize>>) -> Result<TensorPlace, String> {
    let dtype = dtype(&stored.storage.kind)?;
    let bytes_each = dtype.bitsize() / 8;
    let within =
        storages.get(&*stored.storage.key).ok_or_else(|| format!("no data/{}", stored.storage.key))?;
    let mut elements = 1usize;
    // The innermost dimension first.
    for (&size, &stride) in stored.shape.iter().zip(&stored.strides).rev() {
        if size > 1 && stride != elements {
            return Err("it is not contiguous; save it after `.contiguous()`".into());
        }
        elements = elements.checked_mul(size).ok_or("a shape that overflows")?;
    }
    let bytes = |elements: usize| elements.checked_mul(bytes_each);
    let range = bytes(stored.offset).and_then(|offset| {
        let start = within.start.checked_add(offset)?;
        let end = start.checked_add(bytes(elements)?)?;
        (end <= within.end).then_some(start..end)
    });
    let range = range.ok_or_else(|| format!("lies beyond the end of data/{}", stored.storage.key))?;
    Ok(TensorPlace { dtype, shape: stored.shape.clone(), range })
}

/// The element type of a class of storages.
fn dtype(kind: &str) -> Result<Dtype, String> {
    Ok(match kind {
        "torch FloatStorage" => Dtype::F32,
        "torch HalfStorage" => Dtype::F16,
        "torch BFloat16Storage" => Dtype::BF16,
        "torch DoubleStorage" => Dtype::F64,
        "torch LongStorage" => Dtype::I64,
        "torch IntStorage" => Dtype::I32,
        "torch ShortStorage" => Dtype::I16,
        "torch CharStorage" => Dtype::I8,
        "torch ByteStorage" => Dtype::U8,
        "torch BoolStorage" => Dtype::BOOL,
        other => return Err(format!("stored as {other:?}, which is not supported")),
    })
}

#[cfg(test)]
mod tests;
