//! From MODEL and the common flags to a model on its device, with progress.

use std::path::PathBuf;
use std::sync::Arc;

use super::Common;
use super::console::Console;
use crate::checkpoint::{Checkpoint, TokenizerSource, hub};
use crate::data::Tokenizer;
use crate::device::{ComputeType, Device};
use crate::error::Result;
use crate::model::{self, LanguageModel};

pub fn locate(model: &str, console: Console) -> Result<PathBuf> {
    let mut progress = None;
    let path = hub::locate(model, &mut |file, done, of| {
        let bar = progress.get_or_insert_with(|| console.progress(file, of));
        bar.message(file);
        bar.set_total(of);
        bar.set(done);
    })?;
    if let Some(bar) = progress {
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

pub fn model(
    checkpoint: &Arc<Checkpoint>,
    device: &Device,
    dtype: Option<ComputeType>,
    console: Console,
) -> Result<Box<dyn LanguageModel>> {
    let mut bar = console.progress("loading", 0);
    let model = model::load(Arc::clone(checkpoint), device, dtype.unwrap_or_default(), &mut |done, of| {
        bar.set_total(of as u64);
        bar.set(done as u64);
    })?;
    bar.finish();
    Ok(model)
}
