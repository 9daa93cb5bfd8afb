//! From MODEL and the common flags to a model on its device, with progress.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Common;
use super::console::{Bytes, Console};
use crate::checkpoint::{Checkpoint, TokenizerSource, hub};
use crate::config::Config;
use crate::data::{DataConfig, Limits, Overlong, Tokenizer};
use crate::device::{ComputeType, Device};
use crate::error::Result;
use crate::model::memory::Plan;
use crate::model::{self, LanguageModel, Tables};

/// Flags that stand for keys of a recipe.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Override a key of the recipe; may be given more than once
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Directory, .gguf file or Hugging Face id
    #[arg(long)]
    model: Option<String>,
    /// Training rows, JSONL
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

impl RecipeArgs {
    pub fn is_given(&self) -> bool {
        !self.set.is_empty() || self.model.is_some() || self.data.is_some()
    }
}

/// The recipe at `path` with the flags laid over it.
pub fn recipe(path: &Path, args: &RecipeArgs, output: Option<&Path>, common: &Common) -> Result<Config> {
    let text = |value: &str| toml::Value::from(value).to_string();
    let flags = [
        ("model", args.model.as_deref().map(text)),
        ("data.train", args.data.as_ref().map(|path| text(&path.to_string_lossy()))),
        ("output_dir", output.map(|path| text(&path.to_string_lossy()))),
        ("device", common.device.map(|device| text(&device.to_string()))),
        ("dtype", common.dtype.map(|dtype| text(&dtype.to_string()))),
        ("seed", common.seed.map(|seed| seed.to_string())),
    ];
    let flags = flags.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
    Config::load(path, &args.set.iter().cloned().chain(flags).collect::<Vec<_>>())
}

/// Limits of a row that come from the model. Longer rows are refused.
pub fn limits(checkpoint: &Checkpoint) -> Limits {
    let config = checkpoint.config();
    let (max_position, vocab_size) = (config.max_position_embeddings, config.vocab_size);
    Limits { max_seq_length: None, overlong: None, max_position, vocab_size }
}

/// Limits of a training row that come from the model and the `[data]` table.
pub fn training_limits(checkpoint: &Checkpoint, data: &DataConfig) -> Limits {
    let limits = limits(checkpoint);
    if let Some(limit) = data.max_seq_length.filter(|limit| *limit > limits.max_position + 1) {
        tracing::warn!(
            "max_seq_length = {limit} is more than the model's context of {} tokens, which is the limit",
            limits.max_position
        );
    }
    let overlong = data.overlong.or(data.max_seq_length.map(|_| Overlong::default()));
    Limits { max_seq_length: data.max_seq_length, overlong, ..limits }
}

pub fn locate(model: &str, console: Console) -> Result<PathBuf> {
    with_progress(console, |on_download| hub::locate(model, on_download))
}

/// A file, or one of a dataset on the hub.
pub fn text(text: &Path, console: Console) -> Result<PathBuf> {
    with_progress(console, |on_download| hub::locate_text(&text.to_string_lossy(), on_download))
}

fn with_progress(
    console: Console,
    fetch: impl FnOnce(hub::OnDownload<'_>) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let mut progress: Option<(String, u64, Bytes)> = None;
    let path = fetch(&mut |file, done, of| {
        let (_, before, bar) = match progress.take_if(|(known, ..)| known == file) {
            Some(same) => progress.insert(same),
            None => progress.insert((file.to_owned(), 0, console.bytes(file))),
        };
        bar.pass(done.saturating_sub(*before), of, true);
        *before = done;
    })?;
    if let Some((.., bar)) = progress {
        bar.finish();
    }
    Ok(path)
}

pub fn checkpoint(model: &str, console: Console) -> Result<Arc<Checkpoint>> {
    Ok(Arc::new(Checkpoint::open(&locate(model, console)?)?))
}

pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    match checkpoint.tokenizer_source()? {
        TokenizerSource::HuggingFace(directory) => Tokenizer::from_dir(&directory),
        TokenizerSource::Gguf(vocab) => Tokenizer::from_gguf(vocab),
    }
}

pub fn device(common: &Common) -> Result<Device> {
    common.device.unwrap_or_default().resolve()
}

/// Where the tables of embeddings go, by what the plan leaves of a card; it is told.
pub fn tables(
    plan: &mut Plan,
    checkpoint: &Checkpoint,
    device: &Device,
    dtype: ComputeType,
) -> Result<Tables> {
    let on_device = !device.is_host() && plan.add_tables(model::table_bytes(checkpoint, device, dtype)?);
    Ok(if on_device { Tables::OnDevice } else { Tables::InFile })
}

pub fn model(
    checkpoint: &Arc<Checkpoint>,
    device: &Device,
    dtype: ComputeType,
    tables: Tables,
    console: Console,
) -> Result<Box<dyn LanguageModel>> {
    let mut bar = console.progress("loading", 0);
    let model = model::load(Arc::clone(checkpoint), device, dtype, tables, &mut |done, of| {
        bar.set_total(of as u64);
        bar.set(done as u64);
    })?;
    bar.finish();
    Ok(model)
}
