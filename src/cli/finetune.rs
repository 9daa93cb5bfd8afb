use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::common::Common;
use super::describe::describe;
use super::progress::Reporter;
use super::recipe::RunArgs;
use crate::app::{Finetune, FinetuneReport};
use crate::error::{Error, Result};

/// Train the quantization scales of a model on a task, by exact gradients or by forward passes alone
#[derive(Debug, Args)]
pub struct FinetuneArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Run directory
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Continue the run in the run directory, or start it if there is none
    #[arg(long)]
    resume: bool,
}

pub fn run(args: &FinetuneArgs, common: &Common) -> Result<()> {
    let config = args.run.config(args.output.as_deref(), common)?;
    let stop = stop_on_interrupt()?;
    let reporter = Reporter::new(common.console()).logging_every(config.train.logging_steps);
    let command = command_line();
    let run = Finetune { config: &config, resume: args.resume, stop: &stop, command: Some(&command) };
    let report = reporter.through(|on_event| run.run(on_event))?;
    common.console().result(&report, || text(&report))
}

/// The command line as a shell would read it.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quoted = |argument: String| match !argument.is_empty() && argument.chars().all(plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    };
    let arguments = std::env::args().skip(1).map(quoted);
    std::iter::once("qzo".to_string()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Installs a handler of Ctrl-C and SIGTERM: the first signal asks the run to stop after its current step, the second
/// ends the process.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|error| Error::internal(format!("cannot install a handler of Ctrl-C: {error}")))?;
    Ok(stop)
}

fn text(report: &FinetuneReport) -> String {
    let steps = if report.steps == 1 { "step" } else { "steps" };
    let mut lines = vec![format!("{} {steps} in {:.1} s", report.steps, report.train_seconds)];
    let evaluations = [("before", &report.before), ("after", &report.after), ("final/", &report.last)];
    for (name, evaluation) in evaluations {
        lines.extend(evaluation.as_ref().map(|e| format!("{name:7} {}", describe(e))));
    }
    // Without the sign of a zero.
    let rounding = report.rounding.map(|change| (change * 1e5).round() / 1e5 + 0.0);
    lines.extend(
        rounding.map(|r| format!("rounding the scales to the file's type changed the NLL by {r:+.5}")),
    );
    lines.extend(report.best_step.map(|step| format!("best evaluation after step {step}: best/")));
    lines.push(format!("{} is ready to serve", report.output_dir.join("final").display()));
    lines.join("\n")
}
