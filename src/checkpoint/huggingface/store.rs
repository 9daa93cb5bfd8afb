//! Reading the weights of a Hugging Face directory.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::directory::HuggingFace;
use super::tuned;
use crate::arch::hf::CONFIG_FILE;
use crate::arch::{ModelConfig, TrainedTensor, block_of};
use crate::checkpoint::float::{self, DenseValues};
use crate::checkpoint::format::Format;
use crate::checkpoint::safetensors::{Dtype, INDEX_FILE};
use crate::checkpoint::scheme::{Packing, QUANTIZE_CONFIG_FILE};
use crate::checkpoint::store::{Store, TokenizerSource};
use crate::checkpoint::tensor::module;
use crate::checkpoint::weight::{Layout, TensorSummary, TunedSource, Weight};
use crate::error::Result;
use crate::packed::{FloatType, Levels};
use crate::storage::json;
use crate::storage::pages::MappedFile;

impl Store for HuggingFace {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn format(&self) -> Format {
        self.scheme.as_ref().map_or(Format::HuggingFace, |scheme| scheme.format)
    }

    fn files(&self) -> &[MappedFile] {
        self.shards.files()
    }

    fn settings(&self) -> Vec<&[u8]> {
        std::iter::once(&self.config_bytes[..]).chain(self.settings_bytes.as_deref()).collect()
    }

    fn tokenizer(&self) -> Result<TokenizerSource> {
        Ok(TokenizerSource::HuggingFace(self.directory.clone()))
    }

    fn tensors(&self) -> Vec<TensorSummary> {
        let dense = |name: &str| -> Option<TensorSummary> {
            let tensor = self.shards.get(name)?;
            let dtype = format!("{:?}", tensor.dtype);
            Some(TensorSummary::new(name, name, dtype, tensor.shape, tensor.bytes.len()))
        };
        let packed = |(name, shape): (&String, &[usize; 2])| -> Option<TensorSummary> {
            let scheme = self.scheme.as_ref()?;
            let stored = format!("{}{}", module(name), scheme.parts.first()?);
            Some(TensorSummary::new(
                name,
                &stored,
                scheme.name.clone(),
                shape,
                self.layer(name).ok()?.bytes(),
            ))
        };
        let dense = self.unpacked_names().filter_map(dense);
        let mut all: Vec<_> = dense.chain(self.packed.iter().filter_map(packed)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn contains(&self, name: &str) -> bool {
        self.packed.contains_key(name) || self.shards.contains(name)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        match self.packed.get(name) {
            Some(shape) => Ok(shape.to_vec()),
            None => Ok(self.tensor(name)?.shape.to_vec()),
        }
    }

    fn layout(&self, name: &str) -> Result<Layout> {
        match self.packed.contains_key(name) {
            true => Ok(Layout::Packed(self.layer(name)?.layout())),
            false => Ok(Layout::Dense(self.tensor(name)?.float_type()?)),
        }
    }

    fn dense(&self, name: &str) -> Result<Vec<f32>> {
        let Some([out, _]) = self.packed.get(name) else { return self.tensor(name)?.floats() };
        let layer = self.layer(name)?;
        // A row that can be read by itself is rounded once.
        match (0..*out).map(|row| layer.row(row)).collect::<Option<Vec<_>>>() {
            Some(rows) => Ok(rows.concat()),
            None => Ok(layer.packed()?.to_dense()),
        }
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        if self.packed.contains_key(name) {
            return Ok(Weight::Packed(self.layer(name)?.packed()?));
        }
        let tensor = self.tensor(name)?;
        match *tensor.shape {
            [out, input] => Ok(Weight::Dense {
                shape: [out, input],
                values: DenseValues::read(tensor.float_type()?, tensor.bytes),
            }),
            _ => Err(tensor.wrong(format!("expected a matrix, got shape {:?}", tensor.shape))),
        }
    }

    fn rows_into(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<()> {
        let width = values.len() / rows.len().max(1);
        let values = values.chunks_exact_mut(width.max(1));
        if self.packed.contains_key(name) {
            let layer = self.layer(name)?;
            for (&row, values) in rows.iter().zip(values) {
                let found = layer.row(row as usize).ok_or_else(|| {
                    let height = layer.scales().shape()[0];
                    layer.scales().tensor().wrong(format!("row {row} of a table of {height}"))
                })?;
                values.copy_from_slice(&found);
            }
            return Ok(());
        }
        let tensor = self.tensor(name)?;
        let (dtype, &[height, width]) = (tensor.float_type()?, tensor.shape) else {
            return Err(tensor.wrong(format!("expected a matrix, got shape {:?}", tensor.shape)));
        };
        if let Some(row) = rows.iter().find(|row| **row as usize >= height) {
            return Err(tensor.wrong(format!("row {row} of a table of {height}")));
        }
        let place = self.shards.position(name);
        let place = place.and_then(|(file, range)| Some((self.shards.files().get(file)?, range.start)));
        let (file, start) = place.ok_or_else(|| tensor.wrong("is in no file"))?;
        let mut bytes = vec![0; width * float::bytes_per_value(dtype)];
        for (&row, values) in rows.iter().zip(values) {
            file.read_at(start + row as usize * bytes.len(), &mut bytes)?;
            float::decode_into(dtype, &bytes, values);
        }
        Ok(())
    }

    fn trained_names(&self) -> Vec<String> {
        self.packed_names().filter(|name| block_of(name).is_some()).map(str::to_owned).collect()
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        self.layer(name)?.scales().values()
    }

    fn scale_dtype(&self, name: &str) -> Result<FloatType> {
        self.layer(name)?.scales().dtype()
    }

    fn rounded_scales(&self, name: &str, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        self.layer(name)?.rounded(scales)
    }

    fn minima(&self, name: &str) -> Result<Vec<f32>> {
        self.layer(name)?.minima()
    }

    fn save_tuned(
        &self,
        out: &Path,
        _names: &[String],
        tensors: &[TrainedTensor],
        tuned: &mut TunedSource,
    ) -> Result<()> {
        tuned::save(self, out, tensors, tuned)
    }

    /// The packing of the first linear: all of them have the same.
    fn repacking(&self) -> Result<Option<Box<dyn Packing>>> {
        match self.packed_names().next() {
            Some(name) => Ok(self.layer(name)?.repacking()),
            None => Ok(None),
        }
    }

    fn plain_names(&self) -> Vec<String> {
        let tables = self.packed_names().filter(|name| self.is_packed_table(name));
        let mut names: Vec<_> = self.unpacked_names().chain(tables).map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    fn plain_is_exact(&self, name: &str) -> bool {
        !self.is_packed_table(name)
    }

    fn plain_layout(&self, name: &str) -> Result<(Dtype, Vec<usize>)> {
        if self.is_packed_table(name) {
            return Ok((Dtype::F16, self.shape(name)?));
        }
        let tensor = self.shards.tensor(name)?;
        Ok((tensor.dtype, tensor.shape.to_vec()))
    }

    fn plain_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.is_packed_table(name) {
            true => Ok(Cow::Owned(float::encode(FloatType::F16, self.dense(name)?))),
            false => Ok(Cow::Borrowed(self.shards.tensor(name)?.bytes)),
        }
    }

    fn position(&self, name: &str) -> Option<(usize, Range<usize>)> {
        self.shards.position(name)
    }

    fn positions(&self, prefix: &str) -> Vec<(usize, Range<usize>)> {
        let names = self.shards.names().filter(|name| name.starts_with(prefix));
        names.filter_map(|name| self.shards.position(name)).collect()
    }

    fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.shards.stored_name(name)
    }

    fn other_names(&self) -> Vec<String> {
        self.other_names().map(str::to_owned).collect()
    }

    fn write_companions(&self, to: &Path, whole: bool) -> Result<Value> {
        tuned::copy_other_files(self, to, &[CONFIG_FILE, QUANTIZE_CONFIG_FILE, INDEX_FILE])?;
        match &self.text_config {
            Some(text) if !whole => Ok(text.clone()),
            _ => json::parse_json(&self.directory.join(CONFIG_FILE), &self.config_bytes),
        }
    }
}
