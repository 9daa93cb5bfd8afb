//! Opens models, texts and tokenizers by their names, and reports downloads and loading as events.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::event::{Event, OnEvent};
use crate::checkpoint::{Checkpoint, TokenizerSource, hub};
use crate::data::{DataFiles, STDIN, Tokenizer};
use crate::device::{ComputeType, Device};
use crate::error::Result;
use crate::model::memory::Plan;
use crate::model::{self, LanguageModel, Tables};

/// Opens a model by its directory, its .gguf file, or its Hugging Face id.
///
/// # Errors
/// The model does not exist, or qzo cannot read it.
pub fn checkpoint(model: &str, on_event: OnEvent<'_>) -> Result<Arc<Checkpoint>> {
    let path = hub::locate(model, &mut |file, done, of| {
        on_event(Event::Bytes { work: file.to_owned(), done, of });
    })?;
    Ok(Arc::new(Checkpoint::open(&path)?))
}

/// Finds the local path of a text: a file, or a file of a dataset on the hub, which is downloaded.
///
/// # Errors
/// The file does not exist, or the download fails.
pub fn text(text: &Path, on_event: OnEvent<'_>) -> Result<PathBuf> {
    hub::locate_text(&text.to_string_lossy(), &mut |file, done, of| {
        on_event(Event::Bytes { work: file.to_owned(), done, of });
    })
}

/// The local paths of the files that rows are read from. Those of a dataset on the hub are downloaded.
///
/// # Errors
/// A file, dataset or split does not exist, or the download fails.
pub fn data_files(files: &DataFiles, split: &str, on_event: OnEvent<'_>) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for name in &files.0 {
        let on_download = &mut |file: &str, done, of| {
            on_event(Event::Bytes { work: file.to_owned(), done, of });
        };
        match name.as_str() {
            STDIN => paths.push(PathBuf::from(name)),
            name => paths.extend(hub::locate_rows(name, split, on_download)?),
        }
    }
    Ok(paths)
}

/// Loads the tokenizer of a model.
///
/// # Errors
/// The tokenizer is missing, damaged, or of an unsupported kind.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    match checkpoint.tokenizer_source()? {
        TokenizerSource::HuggingFace(directory) => Tokenizer::from_dir(&directory),
        TokenizerSource::Gguf(vocab) => Tokenizer::from_gguf(vocab),
    }
}

/// Decides where the embedding tables are kept: on the device, if it is a GPU and the plan leaves enough memory. The
/// plan then includes them.
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

/// The fingerprint of a model, which is computed once. All its files are read for it.
///
/// # Errors
/// The weights are in no file.
pub fn fingerprint(checkpoint: &Checkpoint, on_event: OnEvent<'_>) -> Result<[u8; 32]> {
    checkpoint.fingerprint_with(&mut |done, of| {
        on_event(Event::Bytes { work: "hashing the model".to_owned(), done, of });
    })
}

/// Loads a model onto a device.
///
/// # Errors
/// A file is damaged, or the device fails.
pub fn model(
    checkpoint: &Arc<Checkpoint>,
    device: &Device,
    dtype: ComputeType,
    tables: Tables,
    on_event: OnEvent<'_>,
) -> Result<Box<dyn LanguageModel>> {
    let on_block = &mut |done, of| on_event(Event::Progress { work: "loading", done, of });
    model::load(Arc::clone(checkpoint), device, dtype, tables, on_block)
}
