use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::console::Console;
use super::{Common, open};
use crate::checkpoint::{Checkpoint, Format, GptqOptions, Weight, write_gptq};
use crate::error::{Error, Result};
use crate::kernels::packed::PackedWeight;
use crate::quant::{Method, QuantizeConfig, rtn};

/// Quantize a Hugging Face checkpoint into a GPTQ directory
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    model: String,
    /// Bits per weight: 2, 3, 4 or 8
    #[arg(long, default_value_t = QuantizeConfig::default().bits)]
    bits: u32,
    #[arg(long, value_enum, default_value_t = QuantizeConfig::default().method)]
    method: Method,
    /// Input features that share a scale; -1: a whole row
    #[arg(long, allow_negative_numbers = true, default_value_t = QuantizeConfig::default().group_size)]
    group_size: i64,
    /// One zero point per group instead of the middle of the range
    #[arg(long)]
    asymmetric: bool,
    /// New directory for the result [default: MODEL-rtn-4bit and the like, in this directory]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
}

pub fn run(args: &QuantizeArgs, common: &Common) -> Result<()> {
    let console = common.console();
    let config = QuantizeConfig {
        method: args.method,
        bits: args.bits,
        group_size: args.group_size,
        asymmetric: args.asymmetric,
    };
    config.validate()?;
    let source = open::checkpoint(&args.model, console)?;
    let out = args.output.clone().unwrap_or_else(|| default_output(&args.model, config));
    quantize(&source, &out, config, console)?;
    let bytes = |c: &Checkpoint| c.tensors().map(|t| t.bytes).sum::<usize>();
    let (before, after) = (bytes(&source), bytes(&Checkpoint::open(&out)?));
    let report = json!({
        "output": out, "format": "gptq", "method": config.method, "bits": config.bits,
        "group_size": config.group_size, "symmetric": !config.asymmetric,
        "bytes_before": before, "bytes_after": after,
    });
    console.result(&report, || {
        format!(
            "{}: {:.1} MB of tensors, {:.1} MB before",
            out.display(),
            after as f64 / 1e6,
            before as f64 / 1e6
        )
    })
}

/// Writes `source`, quantized, to the new directory `out`.
pub fn quantize(source: &Checkpoint, out: &Path, config: QuantizeConfig, console: Console) -> Result<()> {
    if source.format() != Format::HuggingFace {
        source.check_trainable()?;
        return Err(Error::invalid(
            format!("{} is quantized already ({})", source.path().display(), source.format()),
            "fine-tune it as it is: qzo keeps its codes and trains its scales",
        ));
    }
    let options = GptqOptions {
        bits: config.bits,
        group_size: config.group_size(),
        symmetric: !config.asymmetric,
        ..GptqOptions::default()
    };
    let mut bar = console.progress("quantizing", source.config().block_linears().len() as u64);
    let mut done = 0;
    write_gptq(source, out, options, &mut |name, weight| {
        let packed = one(name, weight, config)?;
        done += 1;
        bar.set(done);
        Ok(packed)
    })?;
    bar.finish();
    Ok(())
}

fn one(name: &str, weight: Weight, config: QuantizeConfig) -> Result<PackedWeight> {
    match (weight, config.method) {
        (Weight::Dense { shape, values }, Method::Rtn) => {
            rtn::quantize(&values.into_f32(), shape, config.rtn())
                .map_err(|error| Error::invalid(format!("{name}: {error}"), error.help().unwrap_or_default()))
        }
        (Weight::Packed(_), _) => Err(Error::invalid(format!("{name} is quantized already"), "")),
    }
}

fn default_output(model: &str, config: QuantizeConfig) -> PathBuf {
    let name = Path::new(model).file_name().map_or("model".into(), |name| name.to_string_lossy());
    PathBuf::from(format!("{name}-rtn-{}bit", config.bits))
}
