//! Reading the weights of a .gguf file, and writing a copy of it with other scales.

use std::borrow::Cow;
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;

use super::blocks::GgmlType;
use super::file::{Gguf, GgufTensor};
use super::header::TensorInfo;
use super::metadata;
use super::names::RowOrder;
use crate::arch::{ModelConfig, TensorKind, TrainedTensor, hf};
use crate::checkpoint::float::{self, DenseValues};
use crate::checkpoint::format::Format;
use crate::checkpoint::safetensors::{Dtype, dtype};
use crate::checkpoint::store::{Store, TokenizerSource};
use crate::checkpoint::weight::{Layout, TensorSummary, TunedSource, Weight};
use crate::data::tokenizer::GgufVocab;
use crate::device::host;
use crate::error::{Error, Result};
use crate::packed::{FloatType, Levels, PackedLayout, PackedWeight, words_per_row};
use crate::storage::json::write_json;
use crate::storage::pages::MappedFile;
use crate::storage::staging::{self, Staging};

impl Store for Gguf {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn format(&self) -> Format {
        Format::Gguf
    }

    fn files(&self) -> &[MappedFile] {
        &self.files
    }

    fn tokenizer(&self) -> Result<TokenizerSource> {
        Ok(TokenizerSource::Gguf(self.vocabulary()?))
    }

    fn tensors(&self) -> Vec<TensorSummary> {
        let summary = |(name, (info, _)): (&String, &(TensorInfo, RowOrder))| {
            TensorSummary::new(name, &info.name, info.kind.to_string(), &info.shape, info.range.len())
        };
        self.tensors.iter().map(summary).collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.stored(name)?.info.shape.clone())
    }

    fn layout(&self, name: &str) -> Result<Layout> {
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

    fn dense(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.stored(name)?.dense())
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let stored = self.stored(name)?;
        let [out_features, in_features] = stored.matrix()?;
        let kind = stored.info.kind;
        let Some(block) = kind.block() else {
            let rows: Vec<&[u8]> = (0..out_features).map(|row| stored.row(row)).collect();
            let values = match kind {
                GgmlType::Float(dtype) => DenseValues::read(dtype, &rows.concat()),
                _ => DenseValues::F32(stored.dense()),
            };
            return Ok(Weight::Dense { shape: [out_features, in_features], values });
        };
        let words = words_per_row(in_features, block.bits);
        let mut codes = vec![0u32; out_features * words];
        host::prefer_huge_pages(&mut codes);
        codes
            .par_chunks_mut(words)
            .enumerate()
            .for_each(|(row, codes)| kind.repack_into(stored.row(row), codes));
        let (scales, levels) = stored.scales()?;
        Ok(Weight::Packed(PackedWeight {
            out_features,
            in_features,
            bits: block.bits,
            group_size: block.elements,
            codes,
            scales,
            levels,
            perm: None,
        }))
    }

    fn rows_into(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<()> {
        let stored = self.stored(name)?;
        let (width, height) = (stored.info.row_elements(), stored.info.rows());
        if let Some(row) = rows.iter().find(|row| **row as usize >= height) {
            return Err(stored.wrong(format!("row {row} of a table of {height}")));
        }
        let file = &self.files[stored.info.file];
        let mut bytes = vec![0; stored.bytes.len() / height.max(1)];
        for (&row, values) in rows.iter().zip(values.chunks_exact_mut(width)) {
            let start = stored.info.range.start + stored.order.in_file(row as usize) * bytes.len();
            file.read_at(start, &mut bytes)?;
            stored.info.kind.expand_into(&bytes, values);
            if !values.iter().all(|value| value.is_finite()) {
                return Err(stored.wrong(format!("row {row} holds a value that is not finite")));
            }
        }
        Ok(())
    }

    fn trained_names(&self) -> Vec<String> {
        self.config.block_linears().into_iter().filter(|name| self.is_quantized(name)).collect()
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.stored(name)?.scales()?.0)
    }

    /// All block types have f16 scales.
    fn scale_dtype(&self, name: &str) -> Result<FloatType> {
        let stored = self.stored(name)?;
        stored.info.kind.block().map(|_| FloatType::F16).ok_or_else(|| stored.not_quantized())
    }

    fn rounded_scales(&self, name: &str, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        let stored = self.stored(name)?;
        let tuned = stored.rescaled(scales, None)?;
        GgufTensor { bytes: &tuned, ..stored }.scales()
    }

    fn minima(&self, name: &str) -> Result<Vec<f32>> {
        self.stored(name)?.minima()
    }

    /// Every file keeps its name inside `out`.
    fn save_tuned(
        &self,
        out: &Path,
        names: &[String],
        tensors: &[TrainedTensor],
        tuned: &mut TunedSource,
    ) -> Result<()> {
        let floats = tensors.iter().filter(|tensor| tensor.kind != TensorKind::Minima);
        let names: Vec<&String> = names.iter().chain(floats.map(|tensor| &tensor.name)).collect();
        let staging = Staging::new(out)?;
        for (index, file) in self.files.iter().enumerate() {
            let mut ranges = Vec::new();
            for &name in &names {
                let info = self.stored(name)?.info;
                ranges.extend((info.file == index).then(|| (info.range.clone(), name)));
            }
            ranges.sort_by_key(|(range, _)| range.start);
            let to = staging.path().join(file.name()?);
            staging::copy_with_replacements(&file.bytes, &to, &ranges, |name| {
                if TrainedTensor::find(tensors, name).is_some() {
                    return self.stored(name)?.replaced(tuned(name)?);
                }
                let minima = TrainedTensor::minima_of(tensors, name);
                let minima = minima.map(|minima| tuned(&minima.name)).transpose()?;
                self.stored(name)?.rescaled(&tuned(name)?, minima.as_deref())
            })?;
        }
        staging.publish()
    }

    fn plain_names(&self) -> Vec<String> {
        let packed = self.trained_names();
        let names = self.config.tensors().map(|(name, _)| name);
        let mut names: Vec<_> = names.filter(|name| packed.binary_search(name).is_err()).collect();
        names.sort_unstable();
        names
    }

    fn plain_is_exact(&self, name: &str) -> bool {
        !self.is_quantized(name)
    }

    fn plain_layout(&self, name: &str) -> Result<(Dtype, Vec<usize>)> {
        Ok((dtype(self.float_type(name)?.unwrap_or(FloatType::F16)), self.shape(name)?))
    }

    fn plain_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.float_type(name)? {
            Some(dtype) if self.adds_one(name) => {
                let values = self.dense(name)?;
                Ok(Cow::Owned(float::encode(dtype, values.into_iter().map(|value| value - 1.0))))
            }
            Some(_) => self.bytes_in_order(name),
            None => Ok(Cow::Owned(float::encode(FloatType::F16, self.dense(name)?))),
        }
    }

    fn write_companions(&self, to: &Path, _whole: bool) -> Result<Value> {
        let vocab = self.vocabulary()?;
        write_json(&to.join("tokenizer.json"), &vocab.tokenizer_json()?)?;
        write_json(&to.join("tokenizer_config.json"), &vocab.tokenizer_config())?;
        let json = hf::write::json(&self.config, &vocab)
            .map_err(|what| Error::unsupported(what, "use the original Hugging Face directory"))?;
        write_json(&to.join("generation_config.json"), &hf::write::generation(&vocab))?;
        Ok(json)
    }
}

impl Gguf {
    fn is_quantized(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|(info, _)| info.kind.block().is_some())
    }

    fn vocabulary(&self) -> Result<GgufVocab> {
        metadata::vocabulary(&self.path, &self.files[0].bytes, &self.header)
    }

    /// `None`: the tensor is stored in blocks of a quantized type.
    fn float_type(&self, name: &str) -> Result<Option<FloatType>> {
        Ok(match self.stored(name)?.info.kind {
            GgmlType::Float(dtype) => Some(dtype),
            _ => None,
        })
    }

    /// The tensor's bytes, its rows in Hugging Face order.
    fn bytes_in_order(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let stored = self.stored(name)?;
        Ok(match stored.order {
            RowOrder::HuggingFace => Cow::Borrowed(stored.bytes),
            RowOrder::Interleaved { .. } => {
                let rows: Vec<&[u8]> = (0..stored.info.rows()).map(|row| stored.row(row)).collect();
                Cow::Owned(rows.concat())
            }
        })
    }

    /// Whether the file holds a norm's weights with 1 added, which Hugging Face's directories leave out.
    fn adds_one(&self, name: &str) -> bool {
        self.config.family.is_gemma() && name.contains("norm") && self.config.norm_offset == 0.0
    }
}
