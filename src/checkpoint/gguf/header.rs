//! The structure of a GGUF file (versions 2 and 3, little endian): key-values and the tensor table.
//! Every count and length is checked against the bytes that remain before anything is allocated; arrays
//! stay in the map and are decoded when asked for.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use super::blocks::{GgmlType, type_name};
use crate::error::{Error, Result};

pub struct GgufHeader {
    pub values: BTreeMap<String, GgufValue>,
    /// The tensors, in the order of the file's table.
    pub tensors: Vec<TensorInfo>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(GgufArray),
}

/// An array whose lengths were checked, which begins at byte `start` of the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GgufArray {
    element: ValueKind,
    pub count: usize,
    start: usize,
}

/// A row of the tensor table.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// llama.cpp's name.
    pub name: String,
    pub kind: GgmlType,
    /// Outermost dimension first: `[out, in]`.
    pub shape: Vec<usize>,
    /// The index of its file, in a model that has several.
    pub file: usize,
    /// Its bytes in that file.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// The length of the innermost dimension. A vector counts as a column: each element (or block, were it quantized) is a
    /// row, so that a bias has its weight's order of rows.
    pub fn row_elements(&self) -> usize {
        match self.shape[..] {
            [.., _, width] => width,
            _ => self.kind.unit().0,
        }
    }

    pub fn rows(&self) -> usize {
        self.elements() / self.row_elements()
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// `enum gguf_metadata_value_type`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

const MAX_NESTING: usize = 4;
const MAX_DIMENSIONS: usize = 4;
/// The shortest key-value: length of the key, kind, and a value of one byte.
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;
/// The shortest row of the tensor table: length of the name, dimension count, one dimension, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

impl GgufHeader {
    /// Parses the metadata and the tensor table.
    ///
    /// # Errors
    /// Another kind or version of file; damage; a tensor type that is not supported.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut cursor = HeaderCursor { path, bytes, position: 0 };
        cursor.signature()?;
        let tensor_count = cursor.count("tensors", MIN_TENSOR_BYTES)?;
        let pair_count = cursor.count("key-values", MIN_PAIR_BYTES)?;
        let mut values = BTreeMap::new();
        for _ in 0..pair_count {
            let key = cursor.string("a key")?;
            let value = cursor.value()?;
            if values.insert(key.clone(), value).is_some() {
                return Err(cursor.damaged(format!("two values for the key `{key}`")));
            }
        }
        let alignment = match values.get("general.alignment") {
            None => 32,
            Some(&GgufValue::Unsigned(a)) if a.is_power_of_two() && a <= 1 << 20 => a as usize,
            Some(other) => {
                return Err(
                    cursor.damaged(format!("general.alignment is {other:?}: expected a power of two"))
                );
            }
        };
        let mut tensors = Vec::with_capacity(tensor_count);
        let mut names = HashSet::new();
        for _ in 0..tensor_count {
            let tensor = cursor.tensor(alignment)?;
            if !names.insert(tensor.name.clone()) {
                return Err(Error::tensor(path, tensor.name, "there are two tensors of this name"));
            }
            tensors.push(tensor);
        }
        place(path, &mut tensors, cursor.position.next_multiple_of(alignment), bytes.len())?;
        Ok(Self { values, tensors })
    }
}

/// Turns offsets into ranges of the file.
///
/// # Errors
/// A tensor that ends beyond the file, or overlaps another.
fn place(path: &Path, tensors: &mut [TensorInfo], data: usize, file_bytes: usize) -> Result<()> {
    for tensor in tensors.iter_mut() {
        let end = tensor.range.end.checked_add(data).filter(|&end| end <= file_bytes);
        let Some(end) = end else {
            let what = format!(
                "ends {} bytes into the data, beyond the end of the file ({file_bytes} bytes)",
                tensor.range.end
            );
            return Err(Error::tensor(path, &tensor.name, what));
        };
        tensor.range = tensor.range.start + data..end;
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if let [a, b] = pair
            && a.range.end > b.range.start
        {
            return Err(Error::tensor(path, &b.name, format!("overlaps the tensor `{}`", a.name)));
        }
    }
    Ok(())
}

impl GgufArray {
    /// # Errors
    /// Not an array of strings, or one that is not UTF-8.
    pub fn strings(&self, path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
        let mut cursor = HeaderCursor { path, bytes, position: self.start };
        match self.element {
            ValueKind::String => (0..self.count).map(|_| cursor.string("a string")).collect(),
            other => Err(cursor.damaged(format!("expected an array of strings, got {other:?}"))),
        }
    }

    pub fn floats(&self, path: &Path, bytes: &[u8]) -> Result<Vec<f32>> {
        let mut cursor = HeaderCursor { path, bytes, position: self.start };
        match self.element {
            ValueKind::F32 => (0..self.count).map(|_| Ok(f32::from_le_bytes(cursor.array()?))).collect(),
            other => Err(cursor.damaged(format!("expected an array of F32, got {other:?}"))),
        }
    }

    /// Flags, which may be written as integers.
    pub fn bools(&self, path: &Path, bytes: &[u8]) -> Result<Vec<bool>> {
        let mut cursor = HeaderCursor { path, bytes, position: self.start };
        match self.element {
            ValueKind::Bool => (0..self.count).map(|_| Ok(cursor.array::<1>()? != [0])).collect(),
            _ => Ok(self.integers(path, bytes)?.into_iter().map(|value| value != 0).collect()),
        }
    }

    pub fn integers(&self, path: &Path, bytes: &[u8]) -> Result<Vec<i32>> {
        let mut cursor = HeaderCursor { path, bytes, position: self.start };
        match self.element {
            ValueKind::I32 | ValueKind::U32 => {
                (0..self.count).map(|_| Ok(i32::from_le_bytes(cursor.array()?))).collect()
            }
            other => Err(cursor.damaged(format!("expected an array of I32, got {other:?}"))),
        }
    }
}

impl ValueKind {
    fn from_id(id: u32) -> Option<Self> {
        use ValueKind::*;
        let kinds = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        kinds.get(id as usize).copied()
    }

    /// The size of a value; `None` where it varies.
    fn bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

struct HeaderCursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> HeaderCursor<'a> {
    fn signature(&mut self) -> Result<()> {
        if self.take(4)? != b"GGUF" {
            return Err(self.damaged("not a GGUF file: it does not begin with \"GGUF\""));
        }
        match u32::from_le_bytes(self.array()?) {
            2 | 3 => Ok(()),
            version => {
                let what = match version.swap_bytes() {
                    2 | 3 => "a big-endian GGUF file".to_owned(),
                    _ => format!("GGUF version {version}"),
                };
                Err(Error::unsupported(
                    format!("{}: {what} is not supported", self.path.display()),
                    "works: little-endian GGUF versions 2 and 3; convert the model again with llama.cpp",
                ))
            }
        }
    }

    fn value(&mut self) -> Result<GgufValue> {
        Ok(match self.kind()? {
            ValueKind::U8 => GgufValue::Unsigned(u8::from_le_bytes(self.array()?).into()),
            ValueKind::I8 => GgufValue::Signed(i8::from_le_bytes(self.array()?).into()),
            ValueKind::U16 => GgufValue::Unsigned(u16::from_le_bytes(self.array()?).into()),
            ValueKind::I16 => GgufValue::Signed(i16::from_le_bytes(self.array()?).into()),
            ValueKind::U32 => GgufValue::Unsigned(u32::from_le_bytes(self.array()?).into()),
            ValueKind::I32 => GgufValue::Signed(i32::from_le_bytes(self.array()?).into()),
            ValueKind::U64 => GgufValue::Unsigned(u64::from_le_bytes(self.array()?)),
            ValueKind::I64 => GgufValue::Signed(i64::from_le_bytes(self.array()?)),
            ValueKind::F32 => GgufValue::Float(f32::from_le_bytes(self.array()?).into()),
            ValueKind::F64 => GgufValue::Float(f64::from_le_bytes(self.array()?)),
            ValueKind::Bool => GgufValue::Bool(u8::from_le_bytes(self.array()?) != 0),
            ValueKind::String => GgufValue::String(self.string("a value")?),
            ValueKind::Array => GgufValue::Array(self.skip_array(1)?),
        })
    }

    /// Skips an array and checks all lengths in it.
    fn skip_array(&mut self, depth: usize) -> Result<GgufArray> {
        if depth > MAX_NESTING {
            return Err(self.damaged(format!("arrays nested deeper than {MAX_NESTING}")));
        }
        let element = self.kind()?;
        let smallest = element.bytes().unwrap_or(8);
        let count = self.count("array elements", smallest)?;
        let start = self.position;
        match element {
            ValueKind::String => {
                for _ in 0..count {
                    let length = self.count("string bytes", 1)?;
                    self.take(length)?;
                }
            }
            ValueKind::Array => {
                for _ in 0..count {
                    self.skip_array(depth + 1)?;
                }
            }
            _ => {
                self.take(count * smallest)?;
            }
        }
        Ok(GgufArray { element, count, start })
    }

    /// A row of the tensor table. Its range is relative to the data section until `place`.
    fn tensor(&mut self, alignment: usize) -> Result<TensorInfo> {
        let name = self.string("a tensor's name")?;
        let wrong = |what: String| Error::tensor(self.path, &name, what);
        let (path, mut cursor) = (self.path, HeaderCursor { ..*self });
        let count = u32::from_le_bytes(cursor.array()?) as usize;
        if !(1..=MAX_DIMENSIONS).contains(&count) {
            return Err(wrong(format!("{count} dimensions: expected 1 to {MAX_DIMENSIONS}")));
        }
        let mut dimensions = Vec::with_capacity(count);
        for _ in 0..count {
            dimensions.push(u64::from_le_bytes(cursor.array()?));
        }
        let id = u32::from_le_bytes(cursor.array()?);
        let offset = u64::from_le_bytes(cursor.array()?);
        self.position = cursor.position;

        let kind = GgmlType::from_id(id).ok_or_else(|| {
            Error::unsupported(
                format!(
                    "{}: tensor `{name}` is stored as {}, which is not supported",
                    path.display(),
                    type_name(id)
                ),
                format!("works: {}; convert with `llama-quantize MODEL OUT Q4_K_M`", GgmlType::READABLE),
            )
        })?;
        // GGUF lists the innermost dimension first.
        let shape: Option<Vec<usize>> = dimensions.iter().rev().map(|&d| usize::try_from(d).ok()).collect();
        let elements =
            shape.as_ref().and_then(|s| s.iter().try_fold(1usize, |product, &d| product.checked_mul(d)));
        let (unit_elements, unit_bytes) = kind.unit();
        let bytes =
            elements.filter(|&n| n > 0).map(|n| n / unit_elements).and_then(|n| n.checked_mul(unit_bytes));
        let (Some(shape), Some(bytes)) = (shape, bytes) else {
            return Err(wrong(format!("impossible dimensions {dimensions:?}")));
        };
        if shape.last().is_none_or(|width| width % unit_elements != 0) {
            return Err(wrong(format!(
                "rows of {:?} elements do not fill blocks of {unit_elements}",
                shape.last()
            )));
        }
        if offset % alignment as u64 != 0 {
            return Err(wrong(format!("offset {offset} is not a multiple of the alignment {alignment}")));
        }
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?));
        let range = range.ok_or_else(|| wrong(format!("impossible offset {offset}")))?;
        Ok(TensorInfo { name, kind, shape, file: 0, range })
    }

    fn kind(&mut self) -> Result<ValueKind> {
        let id = u32::from_le_bytes(self.array()?);
        ValueKind::from_id(id).ok_or_else(|| self.damaged(format!("unknown kind {id} of value")))
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.count("string bytes", 1)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged(format!("{what} is not UTF-8")))?;
        Ok(text.to_owned())
    }

    /// A count of items of at least `smallest` bytes each.
    ///
    /// # Errors
    /// The rest of the file is too short for them.
    fn count(&mut self, what: &str, smallest: usize) -> Result<usize> {
        let count = u64::from_le_bytes(self.array()?);
        let most = self.bytes.len().saturating_sub(self.position) / smallest;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => {
                Err(self.damaged(format!("{count} {what}, where at most {most} fit in the rest of the file")))
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.position.checked_add(length);
        let bytes = end.and_then(|end| self.bytes.get(self.position..end));
        let bytes = bytes
            .ok_or_else(|| self.damaged(format!("ends within its header: {length} more bytes expected")))?;
        self.position += length;
        Ok(bytes)
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        Error::damaged(self.path, format!("at byte {}: {what}", self.position))
    }
}
