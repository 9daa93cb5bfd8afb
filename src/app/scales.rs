//! Exports the tuned scales of a run to one small file, apart from its base model, and makes the tuned model again from
//! both.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::open;
use super::output::{check_directory, check_safetensors};
use crate::checkpoint::{Checkpoint, ScalesBase, ScalesFile};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::storage::atomic::parent;
use crate::train::RunDir;
use crate::zo::journal;

/// An export of a run's scales.
#[derive(Debug, Clone)]
pub struct ScalesExport {
    /// A run directory, or `final/` or `best/` inside it. The directory itself stands for `final/`.
    pub run: PathBuf,
    /// New file, named `….safetensors`.
    pub output: PathBuf,
}

/// The result of an export of scales.
#[derive(Debug, Clone, Serialize)]
pub struct ScalesReport {
    pub output: PathBuf,
    /// Always `scales`.
    pub format: &'static str,
    /// Fingerprint of the base model, hexadecimal.
    pub base: String,
    /// Number of weights whose scales were trained.
    pub weights: usize,
    /// Length of the file.
    pub bytes: u64,
    pub seconds: f64,
}

/// Writes the tuned scales of a run and the fingerprint of its base model to one file.
///
/// # Errors
/// There is no run, or it has not written the checkpoint yet; its journal or its configuration is damaged; the output
/// exists or has another extension; an I/O error.
pub fn export_scales(job: &ScalesExport, on_event: OnEvent<'_>) -> Result<ScalesReport> {
    check_safetensors(&job.output)?;
    let started = Instant::now();
    let (run, tuned) = tuned_checkpoint(&job.run)?;
    let (header, ..) = journal::read(&run.journal())?;
    let config = Config::load(&run.config(), &[])?;
    let base = ScalesBase { fingerprint: header.base_model, name: base_name(&run, &config.model) };
    let tuned = Checkpoint::open(&tuned)?;
    let tensors = config.train.trained_tensors(&tuned)?;
    let progress = &mut |done, of| on_event(Event::Progress { work: "scales", done, of });
    let bytes = tuned.save_scales(&job.output, &base, &tensors, progress)?;
    Ok(ScalesReport {
        output: job.output.clone(),
        format: "scales",
        base: hex(base.fingerprint),
        weights: tuned.trained_names().len(),
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Applies exported scales to their base model.
#[derive(Debug, Clone)]
pub struct Apply {
    /// The base model: a directory, a .gguf file, or a Hugging Face id.
    pub base: String,
    /// The file that [`export_scales`] wrote.
    pub scales: PathBuf,
    /// New directory for the tuned checkpoint.
    pub output: PathBuf,
}

/// The result of applying scales.
#[derive(Debug, Clone, Serialize)]
pub struct ApplyReport {
    pub output: PathBuf,
    /// Fingerprint of the base model, hexadecimal.
    pub base: String,
    /// Number of weights that got their tuned scales.
    pub weights: usize,
    pub seconds: f64,
}

/// Makes the tuned checkpoint of a run again from its base model and its exported scales: the same files, byte for byte.
///
/// # Errors
/// The file of scales is damaged or belongs to another base model, or the output exists.
pub fn apply(job: &Apply, on_event: OnEvent<'_>) -> Result<ApplyReport> {
    check_directory(&job.output)?;
    let scales = ScalesFile::open(&job.scales)?;
    let base = open::checkpoint(&job.base, on_event)?;
    let started = Instant::now();
    open::fingerprint(&base, on_event)?;
    let progress = &mut |done, of| on_event(Event::Progress { work: "scales", done, of });
    base.apply_scales(&scales, &job.output, progress)?;
    Ok(ApplyReport {
        output: job.output.clone(),
        base: hex(scales.base().fingerprint),
        weights: scales.weights().count(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The run that `path` is, or lies in, and the checkpoint that is meant.
///
/// # Errors
/// There is no run; it has no such checkpoint yet.
fn tuned_checkpoint(path: &Path) -> Result<(RunDir, PathBuf)> {
    let (itself, around) = (RunDir::new(path), RunDir::new(parent(path)));
    let is_inside = [around.last(), around.best()].iter().any(|tuned| tuned.file_name() == path.file_name());
    let (run, tuned) = if itself.journal().is_file() {
        let last = itself.last();
        (itself, last)
    } else if is_inside && around.journal().is_file() {
        (around, path.to_path_buf())
    } else {
        return Err(Error::invalid(
            format!("{} is not the directory of a run: it has no journal", path.display()),
            "give the directory that `qzo finetune` made, or final/ or best/ inside it",
        ));
    };
    match tuned.is_dir() {
        true => Ok((run, tuned)),
        false => Err(Error::invalid(
            format!("{} does not exist: the run has not come to its end", tuned.display()),
            "let the run go on with `qzo finetune --resume`, which writes the tuned model at its end",
        )),
    }
}

/// The last part of the base model's name in the run's configuration.
fn base_name(run: &RunDir, model: &str) -> Option<String> {
    let name = Path::new(model).file_name()?.to_string_lossy().into_owned();
    Some(if run.base().exists() { format!("{name} as the run quantized it") } else { name })
}

fn hex(fingerprint: [u8; 32]) -> String {
    blake3::Hash::from_bytes(fingerprint).to_hex().to_string()
}
