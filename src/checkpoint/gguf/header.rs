//! The structure of a GGUF file (versions 2 and 3, little endian): key-values and the tensor table.
//! Every count and length is held against the bytes that remain before anything is allocated; arrays
//! stay in the map and are decoded when asked for.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use super::blocks::{GgmlType, type_name};
use crate::error::{Error, Result};

pub struct Header {
    pub values: BTreeMap<String, Value>,
    /// In the file's order of names.
    pub tensors: Vec<TensorInfo>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array that was checked and lies in the file from `start`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array {
    element: Kind,
    pub count: usize,
    start: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// llama.cpp's name.
    pub name: String,
    pub kind: GgmlType,
    /// Outermost dimension first: `[out, in]`.
    pub shape: Vec<usize>,
    /// The file that it is in, of a model that has several.
    pub part: usize,
    /// In that file.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// Of the innermost dimension. The rows of a vector are its elements (blocks, were it quantized), so
    /// that biases follow the order of their weight's rows.
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
enum Kind {
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
/// Key: length, one byte would do; kind; the smallest value.
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;
/// Name length, dimension count, one dimension, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

impl Header {
    /// # Errors
    /// Another kind or version of file; damage; a tensor type that is not supported.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { path, bytes, position: 0 };
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
            Some(&Value::Unsigned(a)) if a.is_power_of_two() && a <= 1 << 20 => a as usize,
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

/// Turns offsets into ranges of the file, none overlapping another.
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

impl Array {
    /// # Errors
    /// Not an array of strings, or one that is not UTF-8.
    pub fn strings(&self, path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
        let mut cursor = Cursor { path, bytes, position: self.start };
        match self.element {
            Kind::String => (0..self.count).map(|_| cursor.string("a string")).collect(),
            other => Err(cursor.damaged(format!("expected an array of strings, got {other:?}"))),
        }
    }

    pub fn floats(&self, path: &Path, bytes: &[u8]) -> Result<Vec<f32>> {
        let mut cursor = Cursor { path, bytes, position: self.start };
        match self.element {
            Kind::F32 => (0..self.count).map(|_| Ok(f32::from_le_bytes(cursor.array()?))).collect(),
            other => Err(cursor.damaged(format!("expected an array of F32, got {other:?}"))),
        }
    }

    pub fn integers(&self, path: &Path, bytes: &[u8]) -> Result<Vec<i32>> {
        let mut cursor = Cursor { path, bytes, position: self.start };
        match self.element {
            Kind::I32 | Kind::U32 => {
                (0..self.count).map(|_| Ok(i32::from_le_bytes(cursor.array()?))).collect()
            }
            other => Err(cursor.damaged(format!("expected an array of I32, got {other:?}"))),
        }
    }
}

impl Kind {
    fn from_id(id: u32) -> Option<Self> {
        use Kind::*;
        let kinds = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        kinds.get(id as usize).copied()
    }

    /// `None` where the size varies.
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

struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
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

    fn value(&mut self) -> Result<Value> {
        Ok(match self.kind()? {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            Kind::I8 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            Kind::U32 => Value::Unsigned(u32::from_le_bytes(self.array()?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            Kind::U64 => Value::Unsigned(u64::from_le_bytes(self.array()?)),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.array()?)),
            Kind::F32 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.array()?)),
            Kind::Bool => Value::Bool(u8::from_le_bytes(self.array()?) != 0),
            Kind::String => Value::String(self.string("a value")?),
            Kind::Array => Value::Array(self.skip_array(1)?),
        })
    }

    /// Walks over an array, checking all lengths in it.
    fn skip_array(&mut self, depth: usize) -> Result<Array> {
        if depth > MAX_NESTING {
            return Err(self.damaged(format!("arrays nested deeper than {MAX_NESTING}")));
        }
        let element = self.kind()?;
        let smallest = element.bytes().unwrap_or(8);
        let count = self.count("array elements", smallest)?;
        let start = self.position;
        match element {
            Kind::String => {
                for _ in 0..count {
                    let length = self.count("string bytes", 1)?;
                    self.take(length)?;
                }
            }
            Kind::Array => {
                for _ in 0..count {
                    self.skip_array(depth + 1)?;
                }
            }
            _ => {
                self.take(count * smallest)?;
            }
        }
        Ok(Array { element, count, start })
    }

    /// The range is relative to the data section until `place`.
    fn tensor(&mut self, alignment: usize) -> Result<TensorInfo> {
        let name = self.string("a tensor's name")?;
        let wrong = |what: String| Error::tensor(self.path, &name, what);
        let (path, mut cursor) = (self.path, Cursor { ..*self });
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
        Ok(TensorInfo { name, kind, shape, part: 0, range })
    }

    fn kind(&mut self) -> Result<Kind> {
        let id = u32::from_le_bytes(self.array()?);
        Kind::from_id(id).ok_or_else(|| self.damaged(format!("unknown kind {id} of value")))
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.count("string bytes", 1)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged(format!("{what} is not UTF-8")))?;
        Ok(text.to_owned())
    }

    /// A count of things of at least `smallest` bytes each, which the rest of the file can hold.
    fn count(&mut self, what: &str, smallest: usize) -> Result<usize> {
        let count = u64::from_le_bytes(self.array()?);
        let room = self.bytes.len().saturating_sub(self.position) / smallest;
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => {
                Err(self.damaged(format!("{count} {what}, where at most {room} fit in the rest of the file")))
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
