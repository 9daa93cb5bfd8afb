use clap::Args;

use super::common::Common;
use super::progress::Reporter;
use super::recipe::RunArgs;
use crate::app::{PlanReport, plan};
use crate::error::Result;
use crate::model::BlockInputs;
use crate::model::memory::HostPart;

/// Show how much memory a run needs, by purpose, before anything is loaded
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    run: RunArgs,
}

pub fn run(args: &PlanArgs, common: &Common) -> Result<()> {
    let config = args.run.config(None, common)?;
    let report = Reporter::new(common.console()).through(|on_event| plan(&config, on_event))?;
    common.console().result(&report, || text(&report))
}

fn text(report: &PlanReport) -> String {
    let plan = &report.plan;
    let mut lines = vec![format!(
        "{} in {}: batches of up to {} tokens, {} of them scored",
        report.device, report.dtype, report.batch.tokens, report.batch.scored
    )];
    let parts = plan.parts.named().into_iter().filter(|(_, bytes)| *bytes > 0);
    lines.extend(parts.map(|(name, bytes)| format!("  {name:<12} {:>10.1} MB", bytes as f64 / 1e6)));
    lines.push(format!("  {:<12} {:>10.1} MB", "total", plan.total_bytes as f64 / 1e6));
    lines.push(match plan.available_bytes {
        Some(available) if plan.total_bytes <= available => {
            format!("fits: {} are free", gigabytes(available))
        }
        Some(available) => format!("does not fit: {} are free", gigabytes(available)),
        None => "the driver does not report how much memory is free".to_string(),
    });
    lines.extend(plan.host.map(|HostPart { bytes, available_bytes }| {
        let free = available_bytes.map(|free| format!(", of {} free", gigabytes(free)));
        format!("in host memory beside the device: {}{}", gigabytes(bytes), free.unwrap_or_default())
    }));
    lines.extend(
        report
            .methods
            .iter()
            .map(|of| format!("with train.method = \"{}\": {}", of.method.name(), gigabytes(of.total_bytes))),
    );
    if report.gradient_accumulation_steps > 1 {
        lines.push(format!("the rows of a step in {} parts", report.gradient_accumulation_steps));
    }
    if report.block_inputs == Some(BlockInputs::OnHost) {
        lines.push("the inputs of the blocks in host memory".to_string());
    }
    lines.extend(report.help.iter().cloned());
    lines.join("\n")
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}
