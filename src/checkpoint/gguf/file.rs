//! The file or files of a GGUF model, opened: metadata and tensors are checked against each other, and every tensor has
//! a place in the model.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::blocks::GgmlType;
use super::header::{GgufHeader, TensorInfo};
use super::names::RowOrder;
use super::{metadata, names, split};
use crate::arch::ModelConfig;
use crate::checkpoint::float;
use crate::checkpoint::leftover::{self, Modules};
use crate::checkpoint::tensor::missing;
use crate::error::{Error, Result};
use crate::packed::Levels;
use crate::storage::pages::MappedFile;

pub struct Gguf {
    /// The path as it was given: the first of the files.
    pub(super) path: PathBuf,
    pub(super) config: ModelConfig,
    pub(super) files: Vec<MappedFile>,
    pub(super) header: GgufHeader,
    /// Hugging Face name → tensor and the order of its rows.
    pub(super) tensors: BTreeMap<String, (TensorInfo, RowOrder)>,
}

/// A tensor: its description and bytes, rows in the file's order.
pub struct GgufTensor<'a> {
    pub info: &'a TensorInfo,
    pub order: RowOrder,
    pub bytes: &'a [u8],
    pub path: &'a Path,
    pub name: &'a str,
}

impl Gguf {
    /// Maps the files, reads the metadata and checks the tensors against it.
    ///
    /// # Errors
    /// Damage; another architecture; a tensor type, RoPE variant or tensor that is not supported; a
    /// tensor of the model that is missing or of another shape.
    pub fn open(path: &Path) -> Result<Self> {
        let (files, header) = split::open(path)?;
        let rope_factors = |name: &str| {
            let tensor = header.tensors.iter().find(|t| t.name == name)?;
            Some(tensor.kind.expand(&files[tensor.file].bytes[tensor.range.clone()], tensor.elements()))
        };
        let (config, architecture) = metadata::config(path, &files[0].bytes, &header, &rope_factors)?;

        let mut tensors = BTreeMap::new();
        let of_rope = [names::ROPE_FACTORS, names::SHORT_FACTORS, names::LONG_FACTORS];
        let mut unknown = Vec::new();
        for info in header.tensors.iter().filter(|t| !of_rope.contains(&t.name.as_str())) {
            let Some(name) = names::to_hugging_face(&info.name, config.block) else {
                unknown.push((info.name.as_str(), info.name.as_str()));
                continue;
            };
            let order = RowOrder::of(&info.name, config.head_dim, architecture.interleaves());
            if tensors.insert(name, (info.clone(), order)).is_some() {
                return Err(Error::tensor(path, &info.name, "is in two files of the model"));
            }
        }
        leftover::refuse(path, "its metadata", &config, &unknown)?;
        let gguf = Self { path: path.to_path_buf(), config, files, header, tensors };
        gguf.check()?;
        Ok(gguf)
    }

    /// # Errors
    /// A tensor of another shape than the config says, or one that the config does not account for.
    fn check(&self) -> Result<()> {
        let config = &self.config;
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
            let is_zero =
                modules.has_bias(name) && self.stored(name)?.dense().iter().all(|value| *value == 0.0);
            left.extend((!is_zero).then_some((name.as_str(), info.name.as_str())));
        }
        leftover::refuse(&self.path, "its metadata", config, &left)
    }

    /// # Errors
    /// No tensor has that name.
    pub(super) fn stored(&self, name: &str) -> Result<GgufTensor<'_>> {
        let known = self.tensors.keys().map(String::as_str);
        let (name, (info, order)) =
            self.tensors.get_key_value(name).ok_or_else(|| missing(&self.path, name, known))?;
        // In range: each header was checked against its file's length.
        let file = &self.files[info.file];
        Ok(GgufTensor { info, order: *order, bytes: &file.bytes[info.range.clone()], path: &file.path, name })
    }
}

impl<'a> GgufTensor<'a> {
    /// The bytes of a row given in Hugging Face order.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let stride = self.bytes.len() / self.info.rows();
        let row = self.order.in_file(row);
        &self.bytes[row * stride..(row + 1) * stride]
    }

    /// `[out, in]`
    ///
    /// # Errors
    /// The tensor is no matrix.
    pub fn matrix(&self) -> Result<[usize; 2]> {
        <[usize; 2]>::try_from(&self.info.shape[..])
            .map_err(|_| self.wrong(format!("expected a matrix, got shape {:?}", self.info.shape)))
    }

    /// All values as f32, rows in Hugging Face order.
    pub fn dense(&self) -> Vec<f32> {
        let mut values = vec![0f32; self.info.elements()];
        values
            .par_chunks_mut(self.info.row_elements())
            .enumerate()
            .for_each(|(row, values)| self.info.kind.expand_into(self.row(row), values));
        values
    }

    /// The block scales, `[out, blocks per row]` in Hugging Face order, and the levels of the codes.
    pub fn scales(&self) -> Result<(Vec<f32>, Levels)> {
        let rows = (0..self.info.rows()).map(|row| self.row(row));
        self.info.kind.scales(rows).map_err(|what| self.wrong(what))
    }

    /// The minima of its blocks, `[out, blocks per row]` in Hugging Face order.
    ///
    /// # Errors
    /// The blocks have none; one that is not finite.
    pub fn minima(&self) -> Result<Vec<f32>> {
        let rows = (0..self.info.rows()).map(|row| self.row(row));
        self.info.kind.minima(rows).map_err(|what| self.wrong(what))
    }

    /// The bytes of a tensor of floats with other values, rows in Hugging Face order.
    ///
    /// # Errors
    /// The tensor is quantized; another number of values; one that overflows the type or is not finite.
    pub fn replaced(&self, values: Vec<f32>) -> Result<Vec<u8>> {
        let GgmlType::Float(dtype) = self.info.kind else {
            return Err(self.wrong(format!("is {}, not a tensor of floats", self.info.kind)));
        };
        let tuned = float::tuned(dtype, values, self.info.elements()).map_err(|what| self.overflow(what))?;
        let stride = tuned.len() / self.info.rows();
        let mut bytes = vec![0; tuned.len()];
        for (row, tuned) in tuned.chunks_exact(stride).enumerate() {
            bytes[self.order.in_file(row) * stride..][..stride].copy_from_slice(tuned);
        }
        Ok(bytes)
    }

    /// The tensor's bytes with new scales, `[out, blocks per row]` in Hugging Face order, and new minima, in the same order,
    /// where these do not just move with the scales.
    pub fn rescaled(&self, scales: &[f32], minima: Option<&[f32]>) -> Result<Vec<u8>> {
        let [out_features, in_features] = self.matrix()?;
        let Some(block) = self.info.kind.block() else {
            return Err(self.not_quantized());
        };
        let groups = in_features / block.elements;
        for (what, given) in [("scales", scales)].into_iter().chain(minima.map(|minima| ("minima", minima))) {
            let (expected, got) = (out_features * groups, given.len());
            if got != expected {
                return Err(self.wrong(format!("expected {expected} {what}, got {got}")));
            }
        }
        let mut bytes = self.bytes.to_vec();
        let stride = bytes.len() / out_features;
        for (row, scales) in scales.chunks_exact(groups).enumerate() {
            let at = self.order.in_file(row) * stride;
            self.info
                .kind
                .rescale(
                    &mut bytes[at..at + stride],
                    scales,
                    minima.map(|minima| &minima[row * groups..][..groups]),
                )
                .map_err(|what| self.overflow(format!("row {row}: {what}")))?;
        }
        Ok(bytes)
    }

    pub fn not_quantized(&self) -> Error {
        self.wrong(format!("is {}, not quantized", self.info.kind))
    }

    pub fn wrong(&self, what: impl Into<String>) -> Error {
        Error::tensor(self.path, self.name, what)
    }

    /// See [`Error::overflow`].
    fn overflow(&self, what: String) -> Error {
        Error::overflow(self.path, self.name, what)
    }
}
