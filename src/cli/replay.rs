use std::path::PathBuf;

use clap::Args;

use super::{Common, open};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::Result;
use crate::train::{RunDir, replay};

/// Rebuild the tuned checkpoint of a run from its base model and journal, without a forward pass
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Run directory
    run: PathBuf,
    /// New directory for the checkpoint
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Stop after this many steps
    #[arg(long)]
    step: Option<u64>,
    /// The base model, where it is no longer where the run found it
    #[arg(long)]
    model: Option<String>,
}

pub fn run(args: &ReplayArgs, common: &Common) -> Result<()> {
    let console = common.console();
    let device = open::device(common)?;
    let run = RunDir::new(&args.run);
    let base = match &args.model {
        Some(model) => open::checkpoint(model, console)?,
        None if run.base().exists() => Checkpoint::open(&run.base())?.into(),
        None => open::checkpoint(&Config::load(&run.config(), &[])?.model, console)?,
    };
    let mut bar = console.progress("replaying", 0);
    let report = replay(&base, &run.journal(), args.step, &device, &args.output, &mut |done, of| {
        bar.set_total(of as u64);
        bar.set(done as u64);
    })?;
    bar.finish();
    if let Some(torn) = report.torn {
        console.note(&format!(
            "the journal ends in {} torn bytes at offset {}: ignored",
            torn.bytes, torn.offset
        ));
    }
    console.result(&report, || format!("{}: {} steps replayed", args.output.display(), report.steps))
}
