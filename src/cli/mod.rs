//! The command line: one file per subcommand, each from its flags to its report. The only room that
//! prints.

mod bench;
mod console;
#[cfg(test)]
mod device_tests;
mod doctor;
mod eval;
mod export;
mod finetune;
mod generate;
mod inspect;
mod open;
mod plan;
mod quantize;
mod replay;
mod size;
mod warnings;

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::device::{ComputeType, Device, DeviceSpec, DtypeSpec};
use crate::error::{Error, Result};
use crate::model;
use console::Console;
use warnings::Warnings;

/// Fine-tune quantized language models with forward passes only.
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
    Inspect(inspect::InspectArgs),
    Plan(plan::PlanArgs),
    Replay(replay::ReplayArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
}

impl Command {
    /// Warns of flags that every command accepts and this one does not use.
    fn warn_of_unused(&self, common: &Common) {
        // The device, the compute type and the seed.
        let (name, [device, dtype, seed]) = match self {
            Self::Quantize(args) => ("quantize", [args.is_calibrated(), false, args.is_calibrated()]),
            Self::Finetune(_) => ("finetune", [true; 3]),
            Self::Eval(_) => ("eval", [true, true, false]),
            Self::Generate(args) => ("generate", [true, true, args.is_sampled()]),
            Self::Export(_) => ("export", [false; 3]),
            Self::Inspect(_) => ("inspect", [false; 3]),
            Self::Plan(_) => ("plan", [true; 3]),
            Self::Replay(_) => ("replay", [true, false, false]),
            Self::Bench(args) => ("bench", [true, true, args.is_seeded()]),
            Self::Doctor(_) => ("doctor", [false; 3]),
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

#[derive(Debug, Args)]
struct Common {
    /// auto, cpu, wgpu[:n] or cuda[:n]
    #[arg(long, global = true, value_name = "DEVICE")]
    device: Option<DeviceSpec>,
    /// Arithmetic of activations: auto, f32, f16 or bf16 [default: auto where a recipe trains, else f32]
    #[arg(long, global = true, value_name = "DTYPE")]
    dtype: Option<DtypeSpec>,
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log what happens (-vv: in detail)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Seed of everything random [default: 0]
    #[arg(long, global = true)]
    seed: Option<u64>,
}

impl Common {
    /// What `--dtype` means on a device; f32, with which other programs' figures compare, by default.
    fn compute_type(&self, device: &Device) -> Result<ComputeType> {
        model::compute_type(device, self.dtype.unwrap_or(DtypeSpec::Fixed(ComputeType::F32)))
    }

    fn console(&self) -> Console {
        Console { json: self.json, quiet: self.quiet }
    }
}

/// # Errors
/// An argument is not UTF-8. Recipes, reports and the files of a run are UTF-8 and could not hold such a path.
pub fn check_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let foreign = arguments.into_iter().skip(1).find(|argument| argument.to_str().is_none());
    match foreign {
        Some(foreign) => Err(Error::Usage(format!(
            "{foreign:?} is not UTF-8, and recipes and reports could not name it: rename it or choose another name"
        ))),
        None => Ok(()),
    }
}

/// Runs what the command line asks for.
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
        Command::Inspect(args) => inspect::run(args, common),
        Command::Plan(args) => plan::run(args, common),
        Command::Replay(args) => replay::run(args, common),
        Command::Bench(args) => bench::run(args, common),
        Command::Doctor(args) => doctor::run(args, common),
    }
}

fn log_to_stderr(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "qzo=warn,error",
        (false, 1) => "qzo=info,warn",
        (false, _) => "qzo=debug,info",
    };
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_filter(FilterFn::new(|event| !warnings::is_warning(event)))
        .with_filter(EnvFilter::new(level));
    let warnings = Warnings { quiet }.with_filter(FilterFn::new(warnings::is_warning));
    // Already set only where a test calls `run` twice.
    let _ = tracing_subscriber::registry().with(log).with(warnings).try_init();
}
