use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use super::progress::Reporter;
use super::size::ByteSize;
use crate::app::{Quantize, quantize};
use crate::checkpoint::QuantizedFormat;
use crate::error::Result;
use crate::quant::{Method, QuantizeConfig};

/// Quantize a Hugging Face checkpoint
///
/// `gptq`, `learned` and `vector` are calibrated on a text; so is `nf4` where one is given. A run that is
/// killed continues where it was when the same command is given again.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    model: String,
    /// Bits per weight: 2, 3, 4 or 8
    #[arg(long, default_value_t = QuantizeConfig::default().bits)]
    bits: u32,
    #[arg(long, value_enum, default_value_t = QuantizeConfig::default().method)]
    method: Method,
    /// Input features that share a scale; -1: a whole row [default: 64 with nf4, else 128]
    #[arg(long, allow_negative_numbers = true)]
    group_size: Option<i64>,
    /// One zero point per group instead of the middle of the range
    #[arg(long)]
    asymmetric: bool,
    /// Search each group's range for the least squared error [default: true for gptq, false for rtn]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    mse: Option<bool>,
    /// Text that the model is calibrated on: a text file, JSONL with a `text` field, or such a file of a
    /// dataset on the hub (org/name/file.jsonl)
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Windows of it that are used
    #[arg(long, value_name = "N", default_value_t = QuantizeConfig::default().calibration_samples)]
    calibration_samples: usize,
    /// Tokens in a window [default: 512, or the model's context where that is less]
    #[arg(long, value_name = "TOKENS")]
    calibration_length: Option<usize>,
    /// Quantize the features with the largest inputs first
    #[arg(long, visible_alias = "desc-act")]
    act_order: bool,
    /// With --act-order: keep groups of neighbouring features, which every reader is fast with
    #[arg(long)]
    static_groups: bool,
    /// Share of the mean diagonal that is added to the Hessian
    #[arg(long, value_name = "SHARE", default_value_t = QuantizeConfig::default().damp_percent)]
    damp_percent: f64,
    /// Weights that share a code, with --method vector [default: 4 with 2 bits, else 2]
    #[arg(long, value_name = "N")]
    vector_size: Option<usize>,
    /// What is written [default: gptq for rtn and gptq, bitsandbytes for nf4, else qzo]
    #[arg(long, value_enum)]
    format: Option<QuantizedFormat>,
    /// New directory for the result; with --format gguf a new file, NAME.gguf [default: MODEL-gptq-4bit and the
    /// like, in this directory]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// No safetensors file is larger, but for a single tensor that is [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<ByteSize>,
}

pub fn run(args: &QuantizeArgs, common: &Common) -> Result<()> {
    let job = Quantize {
        model: args.model.clone(),
        config: args.config(),
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
    pub fn is_calibrated(&self) -> bool {
        self.calibration.is_some()
    }

    fn config(&self) -> QuantizeConfig {
        QuantizeConfig {
            method: self.method,
            bits: self.bits,
            group_size: self.group_size,
            asymmetric: self.asymmetric,
            mse: self.mse,
            calibration: self.calibration.clone(),
            calibration_samples: self.calibration_samples,
            calibration_length: self.calibration_length,
            act_order: self.act_order,
            static_groups: self.static_groups,
            damp_percent: self.damp_percent,
            vector_size: self.vector_size,
        }
    }
}
