//! Rebuilds the tuned checkpoint of a run from its base model and its journal.

use std::path::{Path, PathBuf};

use super::event::{Event, OnEvent};
use super::open;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::device::DeviceSpec;
use crate::error::Result;
use crate::train::{self, ReplayReport, RunDir};

/// A replay of a run.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The run directory.
    pub run: PathBuf,
    /// New directory for the checkpoint.
    pub output: PathBuf,
    /// Number of steps to replay; `None`: all steps of the journal.
    pub step: Option<u64>,
    /// The base model, if it is no longer in the place that the run's configuration names.
    pub model: Option<String>,
    pub device: DeviceSpec,
}

/// Rebuilds the tuned checkpoint of a run, without a forward pass.
///
/// # Errors
/// The base model is not that of the run, the journal is damaged, or the output exists.
pub fn replay(job: &Replay, on_event: OnEvent<'_>) -> Result<ReplayReport> {
    let device = job.device.resolve()?;
    let run = RunDir::new(&job.run);
    let base = match &job.model {
        Some(model) => open::checkpoint(model, on_event)?,
        None if run.base().exists() => Checkpoint::open(&run.base())?.into(),
        None => open::checkpoint(&Config::load(&run.config(), &[])?.model, on_event)?,
    };
    open::fingerprint(&base, on_event)?;
    let progress = &mut |done, of| on_event(Event::Progress { work: "replaying", done, of });
    let report = train::replay(&base, &run.journal(), job.step, &device, Path::new(&job.output), progress)?;
    if let Some(torn) = report.torn {
        on_event(Event::TornTail(torn));
    }
    Ok(report)
}
