//! The command line: one file per subcommand, which turns its flags into a job of [`crate::app`] and prints the report.
//! Only this module prints.

mod apply;
mod bench;
mod common;
mod completions;
mod config;
mod console;
mod describe;
mod doctor;
mod eval;
mod export;
mod finetune;
mod generate;
mod inspect;
mod log;
mod man;
mod plan;
mod progress;
mod quantize;
mod recipe;
mod replay;
mod report;
mod size;
mod stderr;
#[cfg(test)]
mod tests;
mod unknown;
mod warnings;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{Error, Result};
use common::Common;
use log::log_to_stderr;
pub use stderr::show;

/// Fine-tune quantized language models in the memory of inference.
///
/// MODEL is a directory, a .gguf file, or a Hugging Face id (org/name, org/name@revision,
/// org/name/file.gguf).
#[derive(Debug, Parser)]
#[command(name = "qzo", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quantize(quantize::QuantizeArgs),
    Finetune(finetune::FinetuneArgs),
    Eval(eval::EvalArgs),
    Generate(generate::GenerateArgs),
    Export(export::ExportArgs),
    Apply(apply::ApplyArgs),
    Inspect(inspect::InspectArgs),
    Plan(plan::PlanArgs),
    Replay(replay::ReplayArgs),
    Report(report::ReportArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Command {
    /// Warns of common flags that this command does not use.
    fn warn_of_unused(&self, common: &Common) {
        // Whether the command uses the device, the compute type and the seed.
        let (name, [device, dtype, seed]) = match self {
            Self::Quantize(args) => ("quantize", [args.is_calibrated(), false, args.is_calibrated()]),
            Self::Finetune(_) => ("finetune", [true; 3]),
            Self::Eval(args) => ("eval", [true, true, args.is_seeded()]),
            Self::Generate(args) => ("generate", [true, true, args.is_sampled()]),
            Self::Export(_) => ("export", [false; 3]),
            Self::Apply(_) => ("apply", [false; 3]),
            Self::Inspect(_) => ("inspect", [false; 3]),
            Self::Plan(_) => ("plan", [true; 3]),
            Self::Replay(_) => ("replay", [true, false, false]),
            Self::Report(_) => ("report", [false; 3]),
            Self::Bench(args) => ("bench", [true, true, args.is_seeded()]),
            Self::Doctor(_) => ("doctor", [false; 3]),
            Self::Config(args) => ("config", [args.reads_recipe(); 3]),
            Self::Completions(_) => ("completions", [false; 3]),
            Self::Man(_) => ("man", [false; 3]),
        };
        let given = [
            ("--device", common.device.is_some(), device),
            ("--dtype", common.dtype.is_some(), dtype),
            ("--seed", common.seed.is_some(), seed),
        ];
        for (flag, ..) in given.into_iter().filter(|(_, given, used)| *given && !*used) {
            tracing::warn!("{flag} is not used: `qzo {name}` as it is called here does not depend on it");
        }
    }
}

/// Reads the command line. Shows help or an error and ends the process, if that is all there is to do.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| unknown::with_tip(error, &Cli::command()).exit())
}

/// Checks that all arguments are UTF-8.
///
/// # Errors
/// An argument is not UTF-8. Recipes, reports and the files of a run are UTF-8 and cannot contain such a path.
pub fn check_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let not_utf8 = arguments.into_iter().skip(1).find(|argument| argument.to_str().is_none());
    match not_utf8 {
        Some(argument) => Err(Error::Usage(format!(
            "{argument:?} is not UTF-8, so recipes and reports cannot name it: rename it or choose another name"
        ))),
        None => Ok(()),
    }
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<()> {
    log_to_stderr(cli.common.verbose, cli.common.quiet);
    let common = &cli.common;
    cli.command.warn_of_unused(common);
    match &cli.command {
        Command::Quantize(args) => quantize::run(args, common),
        Command::Finetune(args) => finetune::run(args, common),
        Command::Eval(args) => eval::run(args, common),
        Command::Generate(args) => generate::run(args, common),
        Command::Export(args) => export::run(args, common),
        Command::Apply(args) => apply::run(args, common),
        Command::Inspect(args) => inspect::run(args, common),
        Command::Plan(args) => plan::run(args, common),
        Command::Replay(args) => replay::run(args, common),
        Command::Report(args) => report::run(args, common),
        Command::Bench(args) => bench::run(args, common),
        Command::Doctor(args) => doctor::run(args, common),
        Command::Config(args) => config::run(args, common),
        Command::Completions(args) => completions::run(args, Cli::command(), common),
        Command::Man(args) => man::run(args, Cli::command(), common),
    }
}
