//! The tuned checkpoint of a run, from its base model and its journal.

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
    /// A new directory for the checkpoint.
    pub output: PathBuf,
    /// Stop after this many steps; `None`: at the journal's end.
    pub step: Option<u64>,
    /// The base model, where it is no longer where the run found it.
    pub model: Option<String>,
    pub device: DeviceSpec,
}

/// Rebuilds the tuned checkpoint of a run, without a forward pass.
///
/// # Errors
/// Another base model than the run's; a damaged journal; an output that exists.
pub fn replay(all: &Replay, on_event: OnEvent<'_>) -> Result<ReplayReport> {
    let device = all.device.resolve()?;
    let run = RunDir::new(&all.run);
    let base = match &all.model {
        Some(model) => open::checkpoint(model, on_event)?,
        None if run.base().exists() => Checkpoint::open(&run.base())?.into(),
        None => open::checkpoint(&Config::load(&run.config(), &[])?.model, on_event)?,
    };
    let progress = &mut |done, of| on_event(Event::Replay { done, of });
    let report = train::replay(&base, &run.journal(), all.step, &device, Path::new(&all.output), progress)?;
    if let Some(torn) = report.torn {
        on_event(Event::TornTail(torn));
    }
    Ok(report)
}
