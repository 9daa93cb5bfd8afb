use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::size::ByteSize;
use super::{Common, open};
use crate::checkpoint::{Export, ExportFormat, MAX_SHARD_BYTES};
use crate::error::{Error, Result};

/// Write a quantized model in another format, without quantizing it again
///
/// Codes are copied and scales are the same numbers; what the format does not hold is refused, unless
/// --allow-lossy is given.
#[derive(Debug, Args)]
pub struct ExportArgs {
    model: String,
    #[arg(long, value_enum)]
    format: ExportFormat,
    /// New directory for the result; with --format gguf a new file, NAME.gguf
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Input features that share a scale; -1: a whole row. Groups are split, or joined where their scales are
    /// the same [default: as in the model]
    #[arg(long, allow_negative_numbers = true)]
    group_size: Option<i64>,
    /// Round scales to f16 and requantize to the nearest where the format does not hold what the model has
    #[arg(long)]
    allow_lossy: bool,
    /// No safetensors file is larger, but for a single tensor that is [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<ByteSize>,
}

pub fn run(args: &ExportArgs, common: &Common) -> Result<()> {
    let console = common.console();
    check_output(&args.output, args.format == ExportFormat::Gguf)?;
    if args.format == ExportFormat::Gguf && args.max_shard_size.is_some() {
        tracing::warn!("--max-shard-size is not used: a GGUF is one file");
    }
    let source = open::checkpoint(&args.model, console)?;
    let started = Instant::now();
    let export = Export::new(&source, args.format, args.group_size, args.allow_lossy)?;
    let mut bar = console.bytes("exporting");
    let shard = args.max_shard_size.map_or(MAX_SHARD_BYTES, |size| size.0);
    let exported = export
        .write(&args.output, shard, &mut |passed| bar.pass(passed.bytes, passed.of, !passed.was_there))?;
    bar.finish();
    let report = json!({
        "output": args.output, "format": args.format, "exact": exported.exact,
        "scales_rounded": exported.scales_rounded, "requantized": exported.requantized,
        "expanded": exported.expanded, "minimum_rounding": exported.minimum_rounding,
        "seconds": started.elapsed().as_secs_f64(),
    });
    console.result(&report, || {
        let kinds = [
            (exported.exact, "the same"),
            (exported.scales_rounded, "with scales rounded to f16"),
            (exported.requantized, "requantized"),
            (exported.expanded, "expanded to f16"),
        ];
        let kinds = kinds.into_iter().filter(|(count, _)| *count > 0);
        let kinds: Vec<String> = kinds.map(|(count, what)| format!("{count} linears {what}")).collect();
        let rounded = match exported.minimum_rounding {
            0.0 => String::new(),
            most => format!("; minima rounded by at most {most:.1e} of a step"),
        };
        let kinds = if kinds.is_empty() { "floats as they were".into() } else { kinds.join(", ") };
        format!("{}: {kinds}{rounded}", args.output.display())
    })
}

/// A GGUF file is told by its ending, by people and by the hub.
pub fn check_output(output: &std::path::Path, is_gguf: bool) -> Result<()> {
    let ends = output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    match (is_gguf, ends) {
        (true, false) => Err(Error::invalid(
            format!("{} is to be a GGUF file", output.display()),
            format!("name it {}.gguf", output.display()),
        )),
        (false, true) => Err(Error::invalid(
            format!("{} is to be a directory", output.display()),
            "choose --format gguf, or a name that does not end in .gguf",
        )),
        _ => Ok(()),
    }
}
