//! Rebuilds the tuned checkpoint from the base checkpoint and the journal, without a forward pass.

use std::path::Path;

use serde::Serialize;

use crate::checkpoint::{Checkpoint, Weight};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Update, lone_scales};
use crate::zo::direction::Move;
use crate::zo::journal::{self, TornTail};

/// The result of a replay.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayReport {
    pub steps: u64,
    /// Number of moves applied. Skipped steps have none.
    pub updates: usize,
    #[serde(skip)]
    pub torn: Option<TornTail>,
}

/// Applies the first `steps` steps of `journal` (`None`: all steps) to the scales of `base`, one weight
/// at a time, and writes the result to `out`.
///
/// # Errors
/// The journal was made with another base model, has fewer steps or cannot be replayed; reading or writing fails.
pub fn replay(
    base: &Checkpoint,
    journal: &Path,
    steps: Option<u64>,
    device: &Device,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ReplayReport> {
    let (header, records, torn) = journal::read(journal)?;
    if header.base_model != base.fingerprint()? {
        return Err(Error::invalid(
            format!("{} was made with another base model than {}", journal.display(), base.path().display()),
            "give the base model of the run, unchanged, with --model",
        ));
    }
    let steps = steps.unwrap_or(records.len() as u64);
    let Some(records) = records.get(..steps as usize) else {
        let what = format!("{} has {} steps, not {steps}", journal.display(), records.len());
        return Err(Error::invalid(what, "use a smaller --step"));
    };
    if !header.method.is_replayed() {
        return Err(Error::unsupported(
            format!("{}: the steps of method {} cannot be replayed", journal.display(), header.method.name()),
            "continue the run with `qzo finetune --resume`; only zeroth order keeps its steps in the journal",
        ));
    }
    let moves: Vec<Move> = records.iter().flat_map(|record| header.method.moves(record)).collect();
    let trained = base.trained_names();
    let mut done = 0;
    base.save_tuned(out, &[], &mut |name| {
        let id = trained.binary_search_by(|t| t.as_str().cmp(name));
        let id = id.map_err(|_| Error::internal(format!("{name} is not a trained weight")))? as u32;
        let Weight::Packed(weight) = base.weight(name)? else {
            return Err(Error::internal(format!("{name} is not quantized")));
        };
        let mut scales = lone_scales(device, name, id, weight.scales);
        scales.apply(Update::Moves(&moves))?;
        done += 1;
        progress(done, trained.len());
        scales.scales(name)
    })?;
    Ok(ReplayReport { steps, updates: moves.len(), torn })
}
