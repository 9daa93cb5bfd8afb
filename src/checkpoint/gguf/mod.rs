//! A .gguf file, its tensors under their Hugging Face names and rows.
//!
//! ```text
//! header    the file's structure: metadata and tensor table, every number bounded
//! blocks    the block types: layouts, expansion, repacking, new scales
//! split     the files of a model that has several
//! names     llama.cpp's tensor names and its order of q/k rows
//! family    which architectures there are, and what llama.cpp does for each that no key says
//! metadata  key-values → ModelConfig and vocabulary
//! model     a whole model written: writer the structure, describe the key-values, encode the blocks
//! plain     tensors that are stored as floats, as bytes
//! ```
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

pub mod blocks;
mod describe;
pub mod encode;
mod family;
mod header;
mod metadata;
pub mod model;
mod names;
mod plain;
pub mod split;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::leftover::{self, Modules};
use super::shards::missing;
use super::{Layout, ScaleSource, TensorSummary, Values, Weight};
use crate::arch::ModelConfig;
use crate::data::tokenizer::GgufVocab;
use crate::device::host;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::words_per_row;
use crate::packed::{Levels, PackedLayout, PackedWeight};
use crate::storage::pages;
use crate::storage::staging::{self, Staging};
use blocks::GgmlType;
use header::{Header, TensorInfo};
use names::RowOrder;
use split::Part;

pub use encode::form;

pub struct Gguf {
    /// As it was given: the first of its files.
    path: PathBuf,
    parts: Vec<Part>,
    header: Header,
    /// Hugging Face name → tensor and the order of its rows.
    tensors: BTreeMap<String, (TensorInfo, RowOrder)>,
}

/// One tensor: its description, rows in the file's order and their bytes.
struct Stored<'a> {
    info: &'a TensorInfo,
    order: RowOrder,
    bytes: &'a [u8],
    path: &'a Path,
    name: &'a str,
}

impl Gguf {
    /// # Errors
    /// Damage; another architecture; a tensor type, RoPE variant or tensor that is not supported; a
    /// tensor of the model that is missing or of another shape.
    pub fn open(path: &Path) -> Result<(Self, ModelConfig)> {
        let (parts, header) = split::open(path)?;
        let rope_factors = |name: &str| {
            let tensor = header.tensors.iter().find(|t| t.name == name)?;
            Some(tensor.kind.expand(&parts[tensor.part].bytes[tensor.range.clone()], tensor.elements()))
        };
        let (config, family) = metadata::config(path, &parts[0].bytes, &header, &rope_factors)?;

        let mut tensors = BTreeMap::new();
        let of_rope = [names::ROPE_FACTORS, names::SHORT_FACTORS, names::LONG_FACTORS];
        let mut unknown = Vec::new();
        for info in header.tensors.iter().filter(|t| !of_rope.contains(&t.name.as_str())) {
            let Some(name) = names::to_hugging_face(&info.name, config.block) else {
                unknown.push((info.name.as_str(), info.name.as_str()));
                continue;
            };
            let order = RowOrder::of(&info.name, config.head_dim, family.interleaves());
            if tensors.insert(name, (info.clone(), order)).is_some() {
                return Err(Error::tensor(path, &info.name, "is in two files of the model"));
            }
        }
        leftover::refuse(path, "its metadata", &config, &unknown)?;
        let gguf = Self { path: path.to_path_buf(), parts, header, tensors };
        gguf.check(&config)?;
        Ok((gguf, config))
    }

    /// The files, in their order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn is_quantized(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|(info, _)| info.kind.block().is_some())
    }

    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.stored(name)?.info.shape.clone())
    }

    pub fn tensors(&self) -> Vec<TensorSummary> {
        let summary = |(name, (info, _)): (&String, &(TensorInfo, RowOrder))| {
            TensorSummary::new(name, &info.name, info.kind.to_string(), &info.shape, info.range.len())
        };
        self.tensors.iter().map(summary).collect()
    }

    pub fn vocabulary(&self) -> Result<GgufVocab> {
        metadata::vocabulary(&self.path, &self.parts[0].bytes, &self.header)
    }

    pub fn dense(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let width = stored.info.row_elements();
        let mut values = vec![0f32; stored.info.elements()];
        values
            .par_chunks_mut(width)
            .enumerate()
            .for_each(|(row, values)| stored.info.kind.expand_into(stored.row(row), values));
        Ok(values)
    }

    /// See [`super::Checkpoint::rows`].
    pub fn rows_into(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<()> {
        let stored = self.stored(name)?;
        let (width, height) = (stored.info.row_elements(), stored.info.rows());
        if let Some(row) = rows.iter().find(|row| **row as usize >= height) {
            return Err(stored.wrong(format!("row {row} of a table of {height}")));
        }
        let part = &self.parts[stored.info.part];
        let mut bytes = vec![0; stored.bytes.len() / height.max(1)];
        for (&row, values) in rows.iter().zip(values.chunks_exact_mut(width)) {
            let start = stored.info.range.start + stored.order.in_file(row as usize) * bytes.len();
            pages::read_at(&part.file, &part.bytes, start, &mut bytes)
                .map_err(Error::io(stored.path, "reading"))?;
            stored.info.kind.expand_into(&bytes, values);
            if !values.iter().all(|value| value.is_finite()) {
                return Err(stored.wrong(format!("row {row} holds a value that is not finite")));
            }
        }
        Ok(())
    }

    pub fn weight(&self, name: &str) -> Result<Weight> {
        let stored = self.stored(name)?;
        let [out_features, in_features] = stored.matrix()?;
        let kind = stored.info.kind;
        let Some(block) = kind.block() else {
            let rows: Vec<&[u8]> = (0..out_features).map(|row| stored.row(row)).collect();
            let values = match kind {
                GgmlType::Float(dtype) => Values::read(dtype, &rows.concat()),
                _ => Values::F32(self.dense(name)?),
            };
            return Ok(Weight::Dense { shape: [out_features, in_features], values });
        };
        let words = words_per_row(in_features, block.bits);
        let mut codes = vec![0u32; out_features * words];
        host::prefer_huge_pages(&mut codes);
        codes
            .par_chunks_mut(words)
            .enumerate()
            .for_each(|(row, codes)| stored.info.kind.repack_into(stored.row(row), codes));
        let (scales, levels) = stored.scales()?;
        Ok(Weight::Packed(PackedWeight {
            out_features,
            in_features,
            bits: block.bits,
            group_size: block.elements,
            codes,
            scales,
            levels,
            order: None,
        }))
    }

    pub fn layout(&self, name: &str) -> Result<Layout> {
        let kind = self.stored(name)?.info.kind;
        Ok(match (kind, kind.block()) {
            (_, Some(block)) => Layout::Packed(PackedLayout {
                bits: block.bits,
                group_size: block.elements,
                levels: block.levels,
                ordered: false,
            }),
            (GgmlType::Float(dtype), None) => Layout::Dense(dtype),
            (_, None) => Layout::Dense(FloatType::F32),
        })
    }

    pub fn rounded_scales(&self, name: &str, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        let stored = self.stored(name)?;
        let tuned = stored.rescaled(scales)?;
        Stored { bytes: &tuned, ..stored }.scales()
    }

    /// A copy of the file or files, `out/<its name>`, in which only the block scales and minima of `names` differ.
    pub fn save_tuned(&self, out: &Path, names: &[String], scales: &mut ScaleSource) -> Result<()> {
        let staging = Staging::new(out)?;
        for (index, part) in self.parts.iter().enumerate() {
            let mut ranges = Vec::new();
            for name in names {
                let info = self.stored(name)?.info;
                ranges.extend((info.part == index).then(|| (info.range.clone(), name)));
            }
            ranges.sort_by_key(|(range, _)| range.start);
            let to = staging.path().join(part.path.file_name().unwrap_or_default());
            staging::copy_with_replacements(&part.bytes, &to, &ranges, |name| {
                self.stored(name)?.rescaled(&scales(name)?)
            })?;
        }
        staging.publish()
    }

    /// The model's tensors have its shapes, and there are no others.
    fn check(&self, config: &ModelConfig) -> Result<()> {
        let mut expected = HashSet::new();
        for (name, shape) in config.tensors() {
            let stored = self.stored(&name)?;
            if stored.info.shape != shape {
                return Err(stored.wrong(format!("expected shape {shape:?}, got {:?}", stored.info.shape)));
            }
            expected.insert(name);
        }
        let modules = Modules::of(config);
        let mut left = Vec::new();
        for (name, (info, _)) in self.tensors.iter().filter(|(name, _)| !expected.contains(*name)) {
            let is_zero = modules.has_bias(name) && self.dense(name)?.iter().all(|value| *value == 0.0);
            left.extend((!is_zero).then_some((name.as_str(), info.name.as_str())));
        }
        leftover::refuse(&self.path, "its metadata", config, &left)
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let known = self.tensors.keys().map(String::as_str);
        let (name, (info, order)) =
            self.tensors.get_key_value(name).ok_or_else(|| missing(&self.path, name, known))?;
        // In range: each header was checked against its file's length.
        let part = &self.parts[info.part];
        Ok(Stored { info, order: *order, bytes: &part.bytes[info.range.clone()], path: &part.path, name })
    }
}

impl<'a> Stored<'a> {
    /// The bytes of a row given in Hugging Face order.
    fn row(&self, row: usize) -> &'a [u8] {
        let stride = self.bytes.len() / self.info.rows();
        let row = self.order.in_file(row);
        &self.bytes[row * stride..(row + 1) * stride]
    }

    fn matrix(&self) -> Result<[usize; 2]> {
        <[usize; 2]>::try_from(&self.info.shape[..])
            .map_err(|_| self.wrong(format!("expected a matrix, got shape {:?}", self.info.shape)))
    }

    /// `[out, blocks per row]` in Hugging Face order.
    fn scales(&self) -> Result<(Vec<f32>, Levels)> {
        let rows = (0..self.info.rows()).map(|row| self.row(row));
        self.info.kind.scales(rows).map_err(|what| self.wrong(what))
    }

    /// The tensor's bytes with new scales, `[out, blocks per row]` in Hugging Face order.
    fn rescaled(&self, scales: &[f32]) -> Result<Vec<u8>> {
        let [out_features, in_features] = self.matrix()?;
        let Some(block) = self.info.kind.block() else {
            return Err(self.wrong(format!("is {}, not quantized", self.info.kind)));
        };
        let groups = in_features / block.elements;
        if scales.len() != out_features * groups {
            return Err(self.wrong(format!(
                "expected {} scales, got {}",
                out_features * groups,
                scales.len()
            )));
        }
        let mut bytes = self.bytes.to_vec();
        let stride = bytes.len() / out_features;
        for (row, scales) in scales.chunks_exact(groups).enumerate() {
            let at = self.order.in_file(row) * stride;
            self.info
                .kind
                .rescale(&mut bytes[at..at + stride], scales)
                .map_err(|what| self.wrong(format!("row {row}: {what}")))?;
        }
        Ok(bytes)
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::tensor(self.path, self.name, what)
    }
}

#[cfg(test)]
mod tests;
