//! A Hugging Face directory: config.json and files of weights, the linears dense or quantized.
//! Where it is quantized, its scheme knows the tensors.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::leftover::{self, HEAD, Modules};
use super::scheme::{self, Layer, Packing, Scheme};
use super::shards::{Shards, Tensor, missing};
use super::wrapped;
use super::{Format, Layout, ScaleSource, TensorSummary, Values, Weight, float};
use crate::arch::ModelConfig;
use crate::arch::hf::{self, CONFIG_FILE};
use crate::arch::tensors::block_of;
use crate::error::{Error, Result};
use crate::packed::{Levels, PackedWeight};
use crate::storage::json;
use crate::storage::pages;
use crate::storage::staging::{self, Staging};

pub struct HuggingFace {
    directory: PathBuf,
    /// Bytes of config.json, as they were parsed.
    config: Vec<u8>,
    /// Bytes of the file that says how the weights are quantized, where config.json does not.
    settings: Option<Vec<u8>>,
    shards: Shards,
    scheme: Option<Box<dyn Scheme>>,
    /// The quantized linears: name (`….weight`) → `[out, in]`.
    packed: BTreeMap<String, [usize; 2]>,
    /// The config of the text part, where there are others.
    text: Option<Value>,
}

impl HuggingFace {
    /// # Errors
    /// A damaged or unsupported config, quantization scheme or weight file; a tensor of the model
    /// that is missing or of another shape.
    pub fn open(directory: &Path) -> Result<(Self, ModelConfig)> {
        let path = directory.join(CONFIG_FILE);
        let bytes = fs::read(&path).map_err(Error::io(&path, "reading"))?;
        let json = json::parse_json(&path, &bytes)?;
        let mut config = hf::parse(&path, &json)?;
        for id in hf::generation_eos(&directory.join("generation_config.json"))? {
            if !config.eos_token_ids.contains(&id) {
                config.eos_token_ids.push(id);
            }
        }
        let settings = scheme::other_settings(directory, &json)?;
        let scheme = scheme::read(directory, &path, &json, settings.as_deref())?;
        let mut shards = Shards::open(directory)?;
        if scheme.is_some() && shards.are_pickled() {
            return Err(Error::unsupported(
                format!("{}: quantized weights in PyTorch's files", directory.display()),
                "load the model in transformers and save it with `save_pretrained`, which writes safetensors",
            ));
        }
        let names: Vec<&str> = shards.names().collect();
        wrapped::check_names(directory, &names)?;
        if let Some(other) = scheme::undeclared(scheme.as_deref(), &names) {
            return Err(Error::unsupported(
                format!(
                    "{}: holds tensors of {other}, and {CONFIG_FILE} does not say that the weights are quantized",
                    directory.display()
                ),
                "give the config.json (and quantize_config.json) that the quantizer wrote beside these weights",
            ));
        }
        complete_names(&mut shards)?;
        let text = hf::text(&json);
        // Not stored twice where it is the other's: what follows need not know.
        if config.tie_word_embeddings && shards.position(HEAD) == shards.position(&embeddings(&config)) {
            shards.remove(HEAD);
        }
        let directory = directory.to_path_buf();
        let mut opened =
            Self { directory, config: bytes, settings, shards, scheme, packed: BTreeMap::new(), text };
        opened.check(&config)?;
        Ok((opened, config))
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of config.json, as they were parsed.
    pub fn config_bytes(&self) -> &[u8] {
        &self.config
    }

    /// Bytes of the file that says how the weights are quantized, where config.json does not.
    pub fn settings_bytes(&self) -> Option<&[u8]> {
        self.settings.as_deref()
    }

    /// What a copy of the text part alone says in its config, where there are others.
    pub fn text_config(&self) -> Option<&Value> {
        self.text.as_ref()
    }

    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    pub fn format(&self) -> Format {
        self.scheme.as_ref().map_or(Format::HuggingFace, |scheme| scheme.format())
    }

    /// Names of the quantized linears, byte-sorted.
    pub fn packed_names(&self) -> impl Iterator<Item = &str> {
        self.packed.keys().map(String::as_str)
    }

    /// Whether it is a quantized table or head, which are not trained.
    pub fn is_packed_table(&self, name: &str) -> bool {
        self.packed.contains_key(name) && block_of(name).is_none()
    }

    /// Names of the tensors that are no part of a quantized linear, byte-sorted.
    pub fn plain_names(&self) -> impl Iterator<Item = &str> {
        let is_copied = move |name: &&str| self.text.is_none() || hf::is_text(name);
        self.shards.names().filter(|name| !self.is_part(name)).filter(is_copied)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.packed.contains_key(name) || self.shards.contains(name)
    }

    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        match self.packed.get(name) {
            Some(shape) => Ok(shape.to_vec()),
            None => Ok(self.tensor(name)?.shape.to_vec()),
        }
    }

    pub fn tensors(&self) -> Vec<TensorSummary> {
        let dense = |name: &str| -> Option<TensorSummary> {
            let tensor = self.shards.get(name)?;
            let dtype = format!("{:?}", tensor.dtype);
            Some(TensorSummary::new(name, name, dtype, tensor.shape, tensor.bytes.len()))
        };
        let packed = |(name, shape): (&String, &[usize; 2])| -> Option<TensorSummary> {
            let scheme = self.scheme.as_ref()?;
            let stored = format!("{}{}", module(name), scheme.parts().first()?);
            Some(TensorSummary::new(name, &stored, scheme.name(), shape, self.layer(name).ok()?.bytes()))
        };
        let mut all: Vec<_> =
            self.plain_names().filter_map(dense).chain(self.packed.iter().filter_map(packed)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub fn dense(&self, name: &str) -> Result<Vec<f32>> {
        let Some([out, _]) = self.packed.get(name) else { return self.tensor(name)?.floats() };
        let layer = self.layer(name)?;
        // Rows by themselves are rounded once.
        match (0..*out).map(|row| layer.row(row)).collect::<Option<Vec<_>>>() {
            Some(rows) => Ok(rows.concat()),
            None => Ok(layer.packed()?.to_dense()),
        }
    }

    pub fn weight(&self, name: &str) -> Result<Weight> {
        if self.packed.contains_key(name) {
            return Ok(Weight::Packed(self.layer(name)?.packed()?));
        }
        let tensor = self.tensor(name)?;
        match *tensor.shape {
            [out, input] => Ok(Weight::Dense {
                shape: [out, input],
                values: Values::read(tensor.float_type()?, tensor.bytes),
            }),
            _ => Err(tensor.wrong(format!("expected a matrix, got shape {:?}", tensor.shape))),
        }
    }

    pub fn layout(&self, name: &str) -> Result<Layout> {
        match self.packed.contains_key(name) {
            true => Ok(Layout::Packed(self.layer(name)?.layout())),
            false => Ok(Layout::Dense(self.tensor(name)?.float_type()?)),
        }
    }

    /// See [`super::Checkpoint::rows`].
    pub fn rows_into(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<()> {
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
        let stride = width * float::bytes_per_value(dtype);
        let mut bytes = vec![0; stride];
        for (&row, values) in rows.iter().zip(values) {
            pages::read_at(&file.file, &file.bytes, start + row as usize * stride, &mut bytes)
                .map_err(Error::io(tensor.path, "reading"))?;
            float::decode_into(dtype, &bytes, values);
        }
        Ok(())
    }

    pub fn rounded_scales(&self, name: &str, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        self.layer(name)?.rounded(scales)
    }

    /// How a tuned copy is written, where it takes more than other scales: as its first linear says.
    pub fn repacking(&self) -> Result<Option<Box<dyn Packing>>> {
        match self.packed_names().next() {
            Some(name) => Ok(self.layer(name)?.repacking()),
            None => Ok(None),
        }
    }

    /// A linear with new scales `[out, groups]`.
    pub fn tuned(&self, name: &str, scales: Vec<f32>) -> Result<PackedWeight> {
        let layer = self.layer(name)?;
        let scales = layer.scales().rounded(&scales)?;
        Ok(PackedWeight { scales, ..layer.packed()? })
    }

    /// A copy of the directory in which only the scales differ.
    pub fn save_tuned(&self, out: &Path, scales: &mut ScaleSource) -> Result<()> {
        let staging = Staging::new(out)?;
        self.copy_other_files(staging.path(), &[CONFIG_FILE])?;
        staging::write_bytes(&staging.path().join(CONFIG_FILE), &self.config)?;
        for (index, file) in self.shards.files().iter().enumerate() {
            let mut ranges = Vec::new();
            for name in self.packed.keys() {
                if block_of(name).is_none() {
                    continue;
                }
                let layer = self.layer(name)?;
                for (part, tensor) in layer.tuned_tensors().into_iter().enumerate() {
                    let position = self.shards.position(tensor.name).filter(|(file, _)| *file == index);
                    ranges.extend(position.map(|(_, range)| (range, (name, part))));
                }
            }
            ranges.sort_by_key(|(range, _)| range.start);
            let to = staging.path().join(file.path.file_name().unwrap_or_default());
            // A linear's parts mostly follow each other.
            let (mut last, mut parts) = ("", vec![]);
            staging::copy_with_replacements(&file.bytes, &to, &ranges, |&(name, part)| {
                if last != name {
                    parts = self.layer(name)?.tuned_bytes(&scales(name)?)?;
                    last = name;
                }
                Ok(std::mem::take(&mut parts[part]))
            })?;
        }
        staging.publish()
    }

    /// Copies the directory's files, except its weights and `except`. Subdirectories are not part of
    /// a checkpoint; symlinks are followed.
    pub fn copy_other_files(&self, to: &Path, except: &[&str]) -> Result<()> {
        let weights: Vec<_> = self.shards.files().iter().filter_map(|f| f.path.file_name()).collect();
        let directory = &self.directory;
        for entry in fs::read_dir(directory).map_err(Error::io(directory, "listing"))? {
            let entry = entry.map_err(Error::io(directory, "listing"))?;
            let (path, name) = (entry.path(), entry.file_name());
            let text = name.to_string_lossy();
            let skipped = weights.contains(&name.as_os_str())
                || except.contains(&text.as_ref())
                || is_other_weight_file(&text);
            let metadata = fs::metadata(&path).map_err(Error::io(&path, "reading"))?;
            if metadata.is_file() && !skipped {
                staging::copy_file(&path, &to.join(&name))?;
            }
        }
        Ok(())
    }

    /// A quantized linear.
    fn layer(&self, name: &str) -> Result<Box<dyn Layer + '_>> {
        let found = self.scheme.as_ref().zip(self.packed.get(name));
        let not_quantized = || Error::tensor(&self.directory, name, "is not quantized");
        let (scheme, shape) = found.ok_or_else(not_quantized)?;
        scheme.open(&self.shards, module(name), *shape)
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let known = self.shards.names().chain(self.packed_names());
        self.shards.get(name).ok_or_else(|| missing(&self.directory, name, known))
    }

    /// Finds the quantized linears and holds every tensor the model needs against its shape.
    fn check(&mut self, config: &ModelConfig) -> Result<()> {
        for (name, shape) in config.tensors() {
            let marker = self.scheme.as_ref().and_then(|scheme| Some((scheme, scheme.parts().first()?)));
            match (marker, &shape[..]) {
                (Some((scheme, part)), &[out, input])
                    if self.shards.contains(&format!("{}{part}", module(&name))) =>
                {
                    let layer = scheme.open(&self.shards, module(&name), [out, input])?;
                    let tables = [Some(config.embed_tokens()), config.embed_positions()];
                    let is_table = tables.contains(&Some(module(&name)));
                    // Where linears are written anew, a head would be expanded.
                    let is_expanded = block_of(&name).is_none() && layer.repacking().is_some();
                    if is_table && layer.row(0).is_none() || is_expanded {
                        return Err(Error::unsupported(
                            format!("{}: `{name}` is quantized", self.directory.display()),
                            "works: embeddings that are F32, F16 or BF16, in MLX or in GGUF; with double quantization of \
                             bitsandbytes an lm_head of F32, F16 or BF16, too",
                        ));
                    }
                    self.packed.insert(name, [out, input]);
                }
                _ => {
                    let tensor = self.tensor(&name)?;
                    tensor.expect_shape(&shape)?;
                    tensor.float_type()?;
                }
            }
        }
        self.check_leftover(config)
    }

    /// # Errors
    /// A tensor that the config does not account for; [`leftover`] says which ones are accepted.
    fn check_leftover(&self, config: &ModelConfig) -> Result<()> {
        let plain: HashSet<String> =
            config.tensors().map(|(name, _)| name).filter(|name| !self.packed.contains_key(name)).collect();
        let modules = Modules::of(config);
        let mut left = Vec::new();
        for name in self.shards.names().filter(|name| !plain.contains(*name) && !leftover::is_ignored(name)) {
            let tensor = self.tensor(name)?;
            let fine = match self.is_part(name) {
                true => self.scheme.as_ref().is_none_or(|scheme| scheme.accounts_for(&tensor)),
                false if modules.has_bias(name) => tensor.is_zero(),
                false if name == HEAD => {
                    self.shards.have_same_values(&tensor, &self.tensor(&embeddings(config))?)
                }
                false => false,
            };
            left.extend((!fine).then_some((name, name)));
        }
        leftover::refuse(&self.directory, CONFIG_FILE, config, &left)
    }

    /// Whether a tensor is a part of a quantized linear.
    fn is_part(&self, name: &str) -> bool {
        let parts = self.scheme.as_ref().map_or(&[][..], |scheme| scheme.parts());
        let mut modules = parts.iter().filter_map(|part| name.strip_suffix(part));
        modules.any(|module| self.packed.contains_key(&format!("{module}.weight")))
    }
}

/// The name of the token embeddings.
fn embeddings(config: &ModelConfig) -> String {
    format!("{}.weight", config.embed_tokens())
}

/// Files of a model without its head, as older ones of OPT are, leave out what begins all other names; those of a
/// model with other parts put more before it.
fn complete_names(shards: &mut Shards) -> Result<()> {
    if shards.names().any(|name| hf::text_name(name).is_some()) {
        return shards.rename(|name| hf::text_name(name).unwrap_or_else(|| name.to_owned()));
    }
    if shards.names().any(|name| name.starts_with("model.")) {
        return Ok(());
    }
    shards.rename(|name| if name == HEAD { name.to_owned() } else { format!("model.{name}") })
}

pub fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The same model's weights in another format, unquantized or untuned: a copy of them beside the new
/// ones would only mislead.
fn is_other_weight_file(name: &str) -> bool {
    let of_pytorch =
        name.starts_with("pytorch_model") && (name.ends_with(".bin") || name.ends_with(".bin.index.json"));
    let of_llama = name.starts_with("consolidated.") && name.ends_with(".pth");
    let others = [".safetensors", ".gguf", ".h5", ".msgpack", ".onnx"];
    of_pytorch || of_llama || others.iter().any(|ending| name.ends_with(ending))
}
