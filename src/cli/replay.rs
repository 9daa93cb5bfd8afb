use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use super::progress::Reporter;
use crate::app::{Replay, replay};
use crate::error::Result;

/// Rebuild the tuned checkpoint of a run from its base model and journal, without a forward pass
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Run directory
    run: PathBuf,
    /// New directory for the checkpoint
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Number of steps to replay [default: all]
    #[arg(long)]
    step: Option<u64>,
    /// The base model, if it is no longer in the place that the run's configuration names
    #[arg(long)]
    model: Option<String>,
}

pub fn run(args: &ReplayArgs, common: &Common) -> Result<()> {
    let job = Replay {
        run: args.run.clone(),
        output: args.output.clone(),
        step: args.step,
        model: args.model.clone(),
        device: common.device(),
    };
    let report = Reporter::new(common.console()).through(|on_event| replay(&job, on_event))?;
    common.console().result(&report, || format!("{}: {} steps replayed", args.output.display(), report.steps))
}
