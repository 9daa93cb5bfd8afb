//! Writes a quantized model in another format without quantizing it again.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::open;
use super::output::check_output;
use crate::checkpoint::{Export, ExportFormat, MAX_SHARD_BYTES};
use crate::error::Result;

/// An export of a model.
#[derive(Debug, Clone)]
pub struct ExportJob {
    pub model: String,
    pub format: ExportFormat,
    pub output: PathBuf,
    /// Input features that share a scale; −1: a whole row; `None`: as in the model.
    pub group_size: Option<i64>,
    /// Round scales to f16 and requantize weights that the format cannot hold exactly.
    pub allow_lossy: bool,
    /// Largest size of a safetensors file, unless a single tensor is larger. `None`: 5 GB.
    pub max_shard_bytes: Option<u64>,
}

/// The result of an export: the number of linears that were copied exactly, rounded, requantized or expanded.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    pub output: PathBuf,
    pub format: ExportFormat,
    pub exact: usize,
    pub scales_rounded: usize,
    pub requantized: usize,
    /// Linears that were expanded to f16.
    pub expanded: usize,
    /// Largest rounding error of a minimum, in units of its scale.
    pub minimum_rounding: f32,
    pub seconds: f64,
}

/// Writes a model in another format.
///
/// # Errors
/// The format cannot hold the model, the output exists, or an I/O error.
pub fn export(job: &ExportJob, on_event: OnEvent<'_>) -> Result<ExportReport> {
    let is_gguf = job.format == ExportFormat::Gguf;
    check_output(&job.output, is_gguf)?;
    if is_gguf && job.max_shard_bytes.is_some() {
        tracing::warn!("--max-shard-size is not used: a GGUF model is a single file");
    }
    let source = open::checkpoint(&job.model, on_event)?;
    let started = Instant::now();
    let export = Export::new(&source, job.format, job.group_size, job.allow_lossy)?;
    let shard = job.max_shard_bytes.unwrap_or(MAX_SHARD_BYTES);
    let exported = export.write(&job.output, shard, &mut |passed| on_event(Event::Export(passed)))?;
    Ok(ExportReport {
        output: job.output.clone(),
        format: job.format,
        exact: exported.exact,
        scales_rounded: exported.scales_rounded,
        requantized: exported.requantized,
        expanded: exported.expanded,
        minimum_rounding: exported.minimum_rounding,
        seconds: started.elapsed().as_secs_f64(),
    })
}
