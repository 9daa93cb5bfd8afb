//! A model's files, opened: the reading that all containers have in common.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::fingerprint;
use super::finite;
use super::float::{self, DenseValues};
use super::format::Format;
use super::gguf::{Gguf, split};
use super::huggingface::HuggingFace;
use super::safetensors::{Dtype, dtype};
use super::store::{Store, TokenizerSource, in_no_file};
use super::synthetic::{ModelShape, Synthetic};
use super::table;
use super::weight::{Layout, TensorSummary, Weight};
use super::wrapped;
use crate::arch::{ModelConfig, hf};
use crate::error::{Error, Result};
use crate::packed::{FloatType, Levels};
use crate::storage::pages;

/// A model's files, opened and checked against its config.
pub struct Checkpoint {
    path: PathBuf,
    store: Box<dyn Store>,
    /// See [`Self::fingerprint`].
    fingerprint: OnceLock<[u8; 32]>,
}

impl Checkpoint {
    /// Opens a directory with config.json and safetensors files, a .gguf file, or a directory that
    /// holds exactly one .gguf file.
    ///
    /// # Errors
    /// Nothing of the kind there; damaged or unsupported files; a tensor of the model that is missing
    /// or has another shape than the config says.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "opening the model"))?;
        if metadata.is_dir() {
            wrapped::check_directory(path)?;
        } else if let Some(error) = wrapped::single_file(path) {
            return Err(error);
        }
        let store: Box<dyn Store> = match metadata.is_dir() {
            true if path.join(hf::CONFIG_FILE).exists() => Box::new(HuggingFace::open(path)?),
            true => Box::new(Gguf::open(&split::only_model(path)?)?),
            false => Box::new(Gguf::open(path)?),
        };
        Ok(Self { path: path.to_path_buf(), store, fingerprint: OnceLock::new() })
    }

    /// Random symmetric weights of a published model's shape, made when they are asked for: for benchmarks at sizes
    /// that no file at hand has.
    pub fn synthetic(shape: ModelShape, bits: u32, group_size: usize) -> Self {
        let path = PathBuf::from(format!("random {shape}"));
        Self { path, ..Self::random(shape.config(), bits, group_size) }
    }

    /// Random symmetric weights of any dimensions.
    pub fn random(config: ModelConfig, bits: u32, group_size: usize) -> Self {
        let store = Box::new(Synthetic::new(config, bits, group_size));
        Self { path: PathBuf::from("random weights"), store, fingerprint: OnceLock::new() }
    }

    pub fn config(&self) -> &ModelConfig {
        self.store.config()
    }

    pub fn format(&self) -> Format {
        self.store.format()
    }

    /// The path as it was given to `open`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// All tensors of the file, quantized weights as one, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSummary> {
        self.store.tensors().into_iter()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.store.contains(name)
    }

    /// `[out, in]` for matrices.
    ///
    /// # Errors
    /// No tensor has that name.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.store.shape(name)
    }

    /// # Errors
    /// No tensor has that name, or it is no matrix.
    pub(super) fn matrix_shape(&self, name: &str) -> Result<[usize; 2]> {
        let shape = self.shape(name)?;
        let wrong = || Error::tensor(&self.path, name, format!("expected a matrix, got shape {shape:?}"));
        <[usize; 2]>::try_from(&shape[..]).map_err(|_| wrong())
    }

    /// The form in which `weight` gives a matrix.
    pub fn layout(&self, name: &str) -> Result<Layout> {
        self.store.layout(name)
    }

    /// A tensor as f32, row-major in Hugging Face order, however it is stored.
    ///
    /// # Errors
    /// No tensor has that name; a value is NaN or infinite.
    pub fn dense(&self, name: &str) -> Result<Vec<f32>> {
        let values = self.store.dense(name)?;
        finite::expect(&self.path, name, float::first_not_finite(&values, |value| value))?;
        Ok(values)
    }

    /// A matrix in its stored form: packed without loss where the file has it quantized.
    ///
    /// # Errors
    /// No tensor has that name; a value or a scale is NaN or infinite.
    pub fn weight(&self, name: &str) -> Result<Weight> {
        let weight = self.store.weight(name)?;
        if let Weight::Dense { values, .. } = &weight {
            finite::expect(&self.path, name, values.not_finite())?;
        }
        Ok(weight)
    }

    /// Some rows of a table, straight from the file: `[rows.len(), width]`, each value times `factor` in f32,
    /// and rounded to `dtype`.
    ///
    /// # Errors
    /// A row beyond the table, or with a value that is NaN or infinite; a table that is quantized in a way that its rows
    /// cannot be read one by one.
    pub fn rows(&self, name: &str, rows: &[u32], factor: f32, dtype: FloatType) -> Result<DenseValues> {
        table::read(&*self.store, &self.path, name, rows, factor, dtype)
    }

    /// The weights whose scales are trained: the quantized linears inside the decoder blocks,
    /// byte-sorted. A weight's position in this list is its parameter id.
    pub fn trained_names(&self) -> Vec<String> {
        self.store.trained_names()
    }

    /// # Errors
    /// There is no quantized weight whose scales could be trained.
    pub fn check_trainable(&self) -> Result<()> {
        if !self.trained_names().is_empty() {
            return Ok(());
        }
        Err(Error::invalid(
            format!("{} has no quantized weights", self.path.display()),
            match self.format() {
                Format::Gguf => {
                    "use a quantized GGUF (Q4_K_M, Q4_0, Q8_0, …), or quantize the original Hugging Face checkpoint"
                }
                _ => "quantize the model first: `qzo quantize MODEL -o OUT`",
            },
        ))
    }

    /// Reads all tensors that are not trained. Training itself reads only some rows of the embeddings, but a tuned copy
    /// will have them all.
    ///
    /// `progress` is given the number of tensors that are read, and of all.
    ///
    /// # Errors
    /// A value is NaN or infinite.
    pub fn check_finite(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        /// Values that are read at a time.
        const VALUES: usize = 16 << 20;
        let (config, trained) = (self.config(), self.trained_names());
        let tables = [Some(config.embed_tokens()), config.embed_positions()];
        let of = config.tensors().count();
        for (done, (name, shape)) in config.tensors().enumerate() {
            match shape[..] {
                _ if trained.binary_search(&name).is_ok() => {}
                [height, width] if tables.contains(&name.strip_suffix(".weight")) => {
                    let rows: Vec<u32> = (0..height as u32).collect();
                    for rows in rows.chunks((VALUES / width.max(1)).max(1)) {
                        self.rows(&name, rows, 1.0, FloatType::F32)?;
                    }
                }
                [_, _] => drop(self.weight(&name)?),
                _ => drop(self.dense(&name)?),
            }
            self.release();
            progress(done + 1, of);
        }
        Ok(())
    }

    /// # Errors
    /// A GGUF file whose vocabulary is missing or damaged.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource> {
        self.store.tokenizer()
    }

    /// The scales that the file's type can hold of `scales` (`[out, groups]`), with the levels that then
    /// apply: the weight that reading the saved checkpoint would give. A group whose stored scale is
    /// 0 is constant and keeps it.
    ///
    /// # Errors
    /// The weight is not quantized; another number of scales; one that overflows or is not finite.
    pub fn rounded_scales(&self, name: &str, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        self.store.rounded_scales(name, scales)
    }

    /// Identifies weights and config, not their names or places.
    ///
    /// # Errors
    /// The weights are in no file.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        self.fingerprint_with(&mut |_, _| ())
    }

    /// Like [`Self::fingerprint`]; `progress` is given the number of bytes that are read, and of all. It is not called again
    /// once the fingerprint is known.
    ///
    /// # Errors
    /// The weights are in no file.
    pub fn fingerprint_with(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<[u8; 32]> {
        match self.store.files() {
            [] => Err(in_no_file()),
            files => {
                let digest = || fingerprint::digest(&self.store.settings(), files, progress);
                Ok(*self.fingerprint.get_or_init(digest))
            }
        }
    }

    /// Changes when a file of the model does, by its name, length and times, and by the settings' bytes.
    ///
    /// # Errors
    /// The weights are in no file, or the system does not know a file's times.
    pub fn stamp(&self) -> Result<[u8; 32]> {
        match self.store.files() {
            [] => Err(in_no_file()),
            files => fingerprint::stamp(&self.store.settings(), files),
        }
    }

    /// Releases the pages of the mapped files that were read so far, which count as this process's memory until then. They
    /// are read again when they are needed.
    pub fn release(&self) {
        self.store.files().iter().for_each(|file| pages::release(&file.bytes));
    }

    /// Drops the pages of a tensor that is not read again soon: from memory, and those of a large model from the
    /// system's page cache, too.
    pub fn forget(&self, name: &str) {
        if let Some((file, range)) = self.store.position(name)
            && let Some(file) = self.store.files().get(file)
            && self.outgrows_cache()
        {
            pages::forget(&file.bytes, &file.path, range);
        }
    }

    /// Whether the files would push everything else out of the system's page cache. Smaller ones are likely to be there
    /// still when the next command reads them.
    pub(super) fn outgrows_cache(&self) -> bool {
        const LARGE: usize = 4 << 30;
        self.store.files().iter().map(|file| file.bytes.len()).sum::<usize>() >= LARGE
    }

    /// Asks the system to read the tensors whose names begin with `prefix`, and does not wait for it.
    pub fn prefetch(&self, prefix: &str) {
        for (file, range) in self.store.positions(prefix) {
            if let Some(file) = self.store.files().get(file) {
                pages::prefetch(&file.bytes, range);
            }
        }
    }

    /// The tensors that are not trained, as a Hugging Face directory holds them, byte-sorted.
    pub(super) fn plain_names(&self) -> Vec<String> {
        self.store.plain_names()
    }

    /// Whether [`Self::plain_bytes`] lose nothing of the stored tensor.
    pub(super) fn plain_is_exact(&self, name: &str) -> bool {
        self.store.plain_is_exact(name)
    }

    /// Type and shape of a plain tensor.
    pub(super) fn plain_layout(&self, name: &str) -> Result<(Dtype, Vec<usize>)> {
        self.store.plain_layout(name)
    }

    /// A plain tensor's bytes in Hugging Face order, rounded to f16 where they are quantized.
    ///
    /// # Errors
    /// A float that is NaN or infinite, or becomes so.
    pub(super) fn plain_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let bytes = self.store.plain_bytes(name)?;
        let floats = [FloatType::F32, FloatType::F16, FloatType::BF16];
        let (stored, _) = self.plain_layout(name)?;
        if let Some(float) = floats.into_iter().find(|float| dtype(*float) == stored) {
            finite::expect(&self.path, name, float::not_finite(float, &bytes))?;
        }
        Ok(bytes)
    }
}
