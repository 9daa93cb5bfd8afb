use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use super::progress::Reporter;
use super::size::ByteSize;
use crate::app::{Quantize, quantize};
use crate::checkpoint::QuantizedFormat;
use crate::error::Result;
use crate::quant::QuantizeConfig;

/// Quantize a Hugging Face checkpoint
///
/// `gptq`, `learned` and `vector` are calibrated on a text, and so is `nf4` if a text is given. After a kill,
/// the same command continues the work.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    model: String,
    #[command(flatten)]
    config: QuantizeConfig,
    /// Format of the result [default: gptq for rtn and gptq, bitsandbytes for nf4, else qzo]
    #[arg(long, value_enum)]
    format: Option<QuantizedFormat>,
    /// New directory for the result; with --format gguf a new file, NAME.gguf [default: a name like
    /// MODEL-gptq-4bit in the current directory]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Largest size of a safetensors file, unless a single tensor is larger [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<ByteSize>,
}

pub fn run(args: &QuantizeArgs, common: &Common) -> Result<()> {
    let job = Quantize {
        model: args.model.clone(),
        config: args.config.clone(),
        format: args.format,
        output: args.output.clone(),
        device: common.device(),
        seed: common.seed(),
        max_shard_bytes: args.max_shard_size.map(|size| size.0),
    };
    let report = Reporter::new(common.console()).through(|on_event| quantize(&job, on_event))?;
    common.console().result(&report, || {
        let (before, after) = (report.bytes_before as f64 / 1e6, report.bytes_after as f64 / 1e6);
        format!(
            "{}: {after:.1} MB of tensors, {before:.1} MB before; {:.2} bits per weight",
            report.output.display(),
            report.bits_per_weight
        )
    })
}

impl QuantizeArgs {
    /// Whether the weights are calibrated, so that the device and the seed matter.
    pub fn is_calibrated(&self) -> bool {
        self.config.calibration.is_some()
    }
}
