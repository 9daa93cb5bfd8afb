//! Writes the structure of a GGUF file (version 3, little endian): key-values and tensor table. The other direction of
//! `header`.

use std::path::Path;

use super::blocks::GgmlType;
use crate::error::{Error, Result};
use crate::storage::placed::PlacedFile;

/// A value, in one of the types that llama.cpp's own converter writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    Bools(Vec<bool>),
}

/// The alignment of tensors in a file without the key general.alignment.
const ALIGNMENT: u64 = 32;

/// Values of `enum gguf_metadata_value_type`.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Creates the file with its header. `tensors` are llama.cpp's names, types and shapes (outermost dimension first), in
/// the order in which the tensors will lie.
///
/// # Errors
/// Two tensors share a name, a size overflows, or the disk fails.
pub fn create(
    path: &Path,
    metadata: &[(String, Meta)],
    tensors: &[(String, GgmlType, Vec<usize>)],
) -> Result<PlacedFile> {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        string(&mut header, key);
        self::value(&mut header, value);
    }
    let mut places = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for (name, kind, shape) in tensors {
        let (elements, bytes) = kind.unit();
        let wrong = |what: &str| Error::tensor(path, name, format!("of shape {shape:?}: {what}"));
        if shape.last().is_none_or(|width| width % elements != 0) {
            return Err(wrong("its rows do not fill the blocks of its type"));
        }
        let count = shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
        let bytes = count.and_then(|count| (count / elements).checked_mul(bytes));
        let bytes = bytes.ok_or_else(|| wrong("too large"))? as u64;
        string(&mut header, name);
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&d| header.extend((d as u64).to_le_bytes()));
        header.extend(kind.id().to_le_bytes());
        header.extend(offset.to_le_bytes());
        places.push((name.clone(), offset..offset + bytes));
        offset = (offset + bytes).next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    let data = header.len() as u64;
    for (_, place) in &mut places {
        *place = place.start + data..place.end + data;
    }
    PlacedFile::create(path, &header, places, data + offset)
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value(out: &mut Vec<u8>, value: &Meta) {
    let array = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(ARRAY.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Meta::U32(value) => out.extend([U32.to_le_bytes(), value.to_le_bytes()].as_flattened()),
        Meta::F32(value) => out.extend([F32.to_le_bytes(), value.to_le_bytes()].as_flattened()),
        Meta::Bool(value) => {
            out.extend(BOOL.to_le_bytes());
            out.push(u8::from(*value));
        }
        Meta::String(text) => {
            out.extend(STRING.to_le_bytes());
            string(out, text);
        }
        Meta::Strings(texts) => {
            array(out, STRING, texts.len());
            texts.iter().for_each(|text| string(out, text));
        }
        Meta::Floats(values) => {
            array(out, F32, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Meta::Integers(values) => {
            array(out, I32, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Meta::Bools(values) => {
            array(out, BOOL, values.len());
            out.extend(values.iter().map(|value| u8::from(*value)));
        }
    }
}
