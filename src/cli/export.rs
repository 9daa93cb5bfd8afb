use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::common::Common;
use super::progress::Reporter;
use super::size::ByteSize;
use crate::app::export::{ExportJob, ExportReport, export};
use crate::app::scales::{ScalesExport, ScalesReport, export_scales};
use crate::checkpoint::ExportFormat;
use crate::error::Result;

/// Write a quantized model in another format, without quantizing it again, or the scales of a run alone
///
/// Codes and scales are copied exactly. A model that the format cannot hold exactly is refused, unless
/// --allow-lossy is given.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// With --format scales a run directory, or final/ or best/ inside it
    model: String,
    #[arg(long, value_parser = formats())]
    format: ExportTo,
    /// New directory for the result; with --format gguf a new file, NAME.gguf, and with --format scales
    /// NAME.safetensors
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Input features that share a scale; -1: a whole row. Groups are split, or joined if their scales are
    /// equal [default: as in the model]
    #[arg(long, allow_negative_numbers = true)]
    group_size: Option<i64>,
    /// Round scales to f16 and requantize to the nearest level where the format cannot hold the model exactly
    #[arg(long)]
    allow_lossy: bool,
    /// Largest size of a safetensors file, unless a single tensor is larger [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<ByteSize>,
}

/// The value of `--format`.
#[derive(Debug, Clone, Copy)]
enum ExportTo {
    Model(ExportFormat),
    Scales,
}

fn formats() -> impl TypedValueParser<Value = ExportTo> {
    let models = ExportFormat::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let scales = PossibleValue::new("scales");
    let scales =
        scales.help("One small file: the tuned scales of a run, which `qzo apply` adds to its base model");
    PossibleValuesParser::new(models.chain([scales]))
        .map(|name| ExportFormat::from_str(&name, false).map_or(ExportTo::Scales, ExportTo::Model))
}

pub fn run(args: &ExportArgs, common: &Common) -> Result<()> {
    match args.format {
        ExportTo::Model(format) => export_model(args, format, common),
        ExportTo::Scales => export_run(args, common),
    }
}

fn export_run(args: &ExportArgs, common: &Common) -> Result<()> {
    let given = [
        ("--group-size", args.group_size.is_some()),
        ("--allow-lossy", args.allow_lossy),
        ("--max-shard-size", args.max_shard_size.is_some()),
    ];
    for (flag, _) in given.into_iter().filter(|(_, given)| *given) {
        tracing::warn!("{flag} is not used: scales are exported as the run wrote them, to a single file");
    }
    let job = ScalesExport { run: args.model.clone().into(), output: args.output.clone() };
    let report = Reporter::new(common.console()).through(|on_event| export_scales(&job, on_event))?;
    common.console().result(&report, || {
        let ScalesReport { output, weights, bytes, .. } = &report;
        format!("{}: the scales of {weights} weights, {:.2} MB", output.display(), *bytes as f64 / 1e6)
    })
}

fn export_model(args: &ExportArgs, format: ExportFormat, common: &Common) -> Result<()> {
    let job = ExportJob {
        model: args.model.clone(),
        format,
        output: args.output.clone(),
        group_size: args.group_size,
        allow_lossy: args.allow_lossy,
        max_shard_bytes: args.max_shard_size.map(|size| size.0),
    };
    let report = Reporter::new(common.console()).through(|on_event| export(&job, on_event))?;
    common.console().result(&report, || text(&report))
}

fn text(report: &ExportReport) -> String {
    let kinds = [
        (report.exact, "copied exactly"),
        (report.scales_rounded, "with scales rounded to f16"),
        (report.requantized, "requantized"),
        (report.expanded, "expanded to f16"),
    ];
    let kinds = kinds.into_iter().filter(|(count, _)| *count > 0);
    let kinds: Vec<String> = kinds.map(|(count, what)| format!("{count} linears {what}")).collect();
    let rounded = match report.minimum_rounding {
        0.0 => String::new(),
        most => format!("; minima rounded by at most {most:.1e} of their scale"),
    };
    let kinds = if kinds.is_empty() { "no quantized linears".into() } else { kinds.join(", ") };
    format!("{}: {kinds}{rounded}", report.output.display())
}
