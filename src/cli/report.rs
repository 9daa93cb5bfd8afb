use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use crate::app::report::{ReportJob, report};
use crate::error::Result;

/// Write a page about one or more runs: results, curves and examples in one HTML file
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run directories; a run may still be in progress
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// File to write, or to replace [default: RUN/report.html; of several runs report.html]
    #[arg(short, long, value_name = "OUT.html")]
    output: Option<PathBuf>,
}

pub fn run(args: &ReportArgs, common: &Common) -> Result<()> {
    let job = ReportJob { runs: args.runs.clone(), output: args.output.clone() };
    let written = report(&job)?;
    common.console().result(&written, || format!("{}: open it in a browser", written.output.display()))
}
