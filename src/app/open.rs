//! From the names of models and texts to what the jobs work on, with what is fetched and loaded told as events.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::event::{Event, OnEvent};
use crate::checkpoint::{Checkpoint, TokenizerSource, hub};
use crate::data::Tokenizer;
use crate::device::{ComputeType, Device};
use crate::error::Result;
use crate::model::memory::Plan;
use crate::model::{self, LanguageModel, Tables};

/// Opens a model by its directory, its .gguf file, or its Hugging Face id.
///
/// # Errors
/// It is not there, or not a model that qzo reads.
pub fn checkpoint(model: &str, on_event: OnEvent<'_>) -> Result<Arc<Checkpoint>> {
    let path = hub::locate(model, &mut |file, done, of| {
        on_event(Event::Download { file: file.to_owned(), done, of });
    })?;
    Ok(Arc::new(Checkpoint::open(&path)?))
}

/// The path of a text: a file, or one of a dataset on the hub.
///
/// # Errors
/// The hub does not give it.
pub fn text(text: &Path, on_event: OnEvent<'_>) -> Result<PathBuf> {
    hub::locate_text(&text.to_string_lossy(), &mut |file, done, of| {
        on_event(Event::Download { file: file.to_owned(), done, of });
    })
}

/// The tokenizer that belongs to a model.
///
/// # Errors
/// It is missing, damaged, or of a kind that qzo does not know.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    match checkpoint.tokenizer_source()? {
        TokenizerSource::HuggingFace(directory) => Tokenizer::from_dir(&directory),
        TokenizerSource::Gguf(vocab) => Tokenizer::from_gguf(vocab),
    }
}

/// Says where the tables of embeddings go, by what the plan leaves of a card, and adds them to the plan.
///
/// # Errors
/// The model has no head.
pub fn tables(
    plan: &mut Plan,
    checkpoint: &Checkpoint,
    device: &Device,
    dtype: ComputeType,
) -> Result<Tables> {
    let on_device = !device.is_host() && plan.add_tables(model::table_bytes(checkpoint, device, dtype)?);
    Ok(if on_device { Tables::OnDevice } else { Tables::InFile })
}

/// Brings a model onto a device.
///
/// # Errors
/// A damaged file, or a device that fails.
pub fn model(
    checkpoint: &Arc<Checkpoint>,
    device: &Device,
    dtype: ComputeType,
    tables: Tables,
    on_event: OnEvent<'_>,
) -> Result<Box<dyn LanguageModel>> {
    let on_block = &mut |done, of| on_event(Event::Load { done, of });
    model::load(Arc::clone(checkpoint), device, dtype, tables, on_block)
}
