use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::common::Common;
use crate::error::{Error, Result};
use crate::storage::atomic::create_directory;

/// Write man pages, one for each command
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for the pages
    directory: PathBuf,
}

/// Writes the man pages of `command`, which is the program with all its subcommands.
pub fn run(args: &ManArgs, command: clap::Command, common: &Common) -> Result<()> {
    create_directory(&args.directory)?;
    clap_mangen::generate_to(command, &args.directory).map_err(Error::io(&args.directory, "writing"))?;
    let report = json!({ "directory": args.directory });
    common.console().result(&report, || format!("man pages are in {}", args.directory.display()))
}
