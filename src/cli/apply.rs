use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use super::progress::Reporter;
use crate::app::scales::{Apply, apply};
use crate::error::Result;

/// Make a tuned model from its base model and the scales that `qzo export --format scales` wrote
///
/// The result is the run's tuned checkpoint, byte for byte. Any other base model is refused.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The model that was trained, unchanged
    base: String,
    /// The file of scales
    scales: PathBuf,
    /// New directory for the tuned model
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

pub fn run(args: &ApplyArgs, common: &Common) -> Result<()> {
    let job = Apply { base: args.base.clone(), scales: args.scales.clone(), output: args.output.clone() };
    let report = Reporter::new(common.console()).through(|on_event| apply(&job, on_event))?;
    let text = || format!("{}: {} weights with their tuned scales", report.output.display(), report.weights);
    common.console().result(&report, text)
}
