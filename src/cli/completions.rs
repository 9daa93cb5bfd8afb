use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use super::common::Common;
use crate::error::Result;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

/// Prints the completions of `command`, which is the program with all its subcommands.
pub fn run(args: &CompletionsArgs, mut command: clap::Command, common: &Common) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "qzo", &mut script);
    let script = String::from_utf8_lossy(&script);
    let report = json!({ "shell": args.shell.to_string(), "script": script });
    common.console().result(&report, || script.trim_end().to_owned())
}
