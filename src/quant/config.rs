//! The `[quantize]` table of a config file and the flags of `qzo quantize`: how a model is quantized.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::options::{CodeKind, Feedback, QuantOptions};
use crate::error::{Error, Result};
use crate::packed::FloatType;

/// Methods of quantization.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum QuantMethod {
    /// Integers, rounded to the nearest: needs no data
    #[default]
    Rtn,
    /// Integers with error feedback, calibrated
    Gptq,
    /// The 4-bit codebook of QLoRA and bitsandbytes; calibrated where there is data
    Nf4,
    /// A codebook for each weight, calibrated
    Learned,
    /// A codebook of vectors for each weight, calibrated
    Vector,
}

/// Tokens per calibration window where no number is given.
pub const CALIBRATION_LENGTH: usize = 512;

/// Settings of a quantization: a table of the config file and flags of the command line. The comments of the fields are
/// the flags' help texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema, clap::Args)]
#[command(about = None, long_about = None)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeConfig {
    /// How the weights are quantized
    #[arg(long, value_enum, default_value_t = QuantizeConfig::default().method)]
    pub method: QuantMethod,
    /// Bits per weight: 2, 3, 4 or 8
    #[arg(long, default_value_t = QuantizeConfig::default().bits)]
    pub bits: u32,
    /// Input features that share a scale; -1: a whole row [default: 64 with nf4, else 128]
    #[arg(long, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<i64>,
    /// One zero point per group instead of the middle of the range
    #[arg(long)]
    pub asymmetric: bool,
    /// Search each group's range for the least squared error [default: true for gptq, false for rtn]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mse: Option<bool>,
    /// Text that the model is calibrated on: a text file, JSONL with a `text` field, or such a file of a
    /// dataset on the hub (org/name/file.jsonl)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<PathBuf>,
    /// Windows of the text that are used
    #[arg(long, value_name = "N", default_value_t = QuantizeConfig::default().calibration_samples)]
    pub calibration_samples: usize,
    /// Tokens in a window [default: 512, or the model's context where that is less]
    #[arg(long, value_name = "TOKENS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration_length: Option<usize>,
    /// Quantize the features with the largest inputs first
    #[arg(long, visible_alias = "desc-act")]
    pub act_order: bool,
    /// With --act-order: keep groups of neighbouring features, which every reader is fast with
    #[arg(long)]
    pub static_groups: bool,
    /// Share of the mean diagonal that is added to the Hessian
    #[arg(long, value_name = "SHARE", default_value_t = QuantizeConfig::default().damp_percent)]
    pub damp_percent: f64,
    /// Weights that share a code, with --method vector [default: 4 with 2 bits, else 2]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector_size: Option<usize>,
}

impl Default for QuantizeConfig {
    fn default() -> Self {
        let Feedback { damping, act_order, static_groups } = Feedback::default();
        Self {
            method: QuantMethod::Rtn,
            bits: 4,
            group_size: None,
            asymmetric: false,
            mse: None,
            calibration: None,
            calibration_samples: 128,
            calibration_length: None,
            act_order,
            static_groups,
            damp_percent: damping,
            vector_size: None,
        }
    }
}

impl QuantizeConfig {
    /// # Errors
    /// Settings that contradict each other or the method.
    pub fn validate(&self) -> Result<()> {
        use QuantMethod::{Gptq, Learned, Nf4, Rtn, Vector};
        let Self { method, bits, .. } = *self;
        let name = format!("{method:?}").to_lowercase();
        let invalid = |what: String, help: &str| Err(Error::invalid(what, help));
        let allowed: &[u32] = match method {
            Rtn | Gptq => &[2, 3, 4, 8],
            Nf4 => &[4],
            Learned | Vector => &[2, 3, 4],
        };
        if !allowed.contains(&bits) {
            let allowed: Vec<String> = allowed.iter().map(u32::to_string).collect();
            return invalid(
                format!("{name} with {bits} bits"),
                &format!("use bits = {}", allowed.join(", ")),
            );
        }
        let group_size = self.group_size.unwrap_or(-1);
        if group_size != -1 && !(8..=65_536).contains(&group_size) {
            return invalid(
                format!("group_size is {group_size}"),
                "use 32, 64, 128, or -1 for one scale per row",
            );
        }
        let integers = matches!(method, Rtn | Gptq);
        if !integers && (self.asymmetric || self.mse == Some(true)) {
            return invalid(
                format!("asymmetric or mse with {name}"),
                "leave them out: a codebook has no zero point, and its scales are fitted anyway",
            );
        }
        if matches!(method, Gptq | Learned | Vector) && self.calibration.is_none() {
            return invalid(
                format!("{name} needs calibration data"),
                "give --calibration FILE, a text file or JSONL with a `text` field; or use --method rtn",
            );
        }
        if self.calibration.is_some() && method == Rtn {
            return invalid(
                "rtn uses no calibration data".into(),
                "use --method gptq, or leave --calibration out",
            );
        }
        if (self.act_order || self.static_groups) && self.calibration.is_none() {
            return invalid(
                "act_order and static_groups need calibration data".into(),
                "give --calibration FILE and --method gptq",
            );
        }
        if self.calibration_samples == 0 || self.calibration_length.is_some_and(|length| length < 2) {
            return invalid(
                format!(
                    "{} samples of {} tokens",
                    self.calibration_samples,
                    self.calibration_length.unwrap_or(CALIBRATION_LENGTH)
                ),
                "calibrate on 128 samples of 512 tokens, or more",
            );
        }
        if !(0.0..=1.0).contains(&self.damp_percent) {
            return invalid(format!("damp_percent is {}", self.damp_percent), "use 0.01, or up to 1");
        }
        if self.vector_size.is_some() && method != Vector {
            return invalid(format!("vector_size with {name}"), "use --method vector");
        }
        let code = self.vector_size() as u32 * bits;
        if method == Vector && !(matches!(self.vector_size(), 2 | 4 | 8) && code <= 12) {
            return invalid(
                format!("vectors of {} weights at {bits} bits", self.vector_size()),
                "use 2 or 4 weights, of at most 12 bits together: 2 bits × 4, 3 bits × 2 or 4, 4 bits × 2",
            );
        }
        Ok(())
    }

    /// Warns of settings that change nothing without a calibration text.
    pub fn warn_of_unused(&self) {
        if self.calibration.is_some() {
            return;
        }
        let default = Self::default();
        let unused = [
            ("calibration_samples", self.calibration_samples != default.calibration_samples),
            ("calibration_length", self.calibration_length.is_some()),
            ("damp_percent", self.damp_percent != default.damp_percent),
        ];
        for (name, _) in unused.into_iter().filter(|(_, set)| *set) {
            tracing::warn!("{name} is not used: there is no calibration text");
        }
    }

    /// Input features per group; `None`: a whole row.
    pub fn group_size(&self) -> Option<usize> {
        let default = if self.method == QuantMethod::Nf4 { 64 } else { 128 };
        usize::try_from(self.group_size.unwrap_or(default)).ok()
    }

    /// Weights that share a code.
    pub fn vector_size(&self) -> usize {
        match self.method {
            QuantMethod::Vector => self.vector_size.unwrap_or(if self.bits == 2 { 4 } else { 2 }),
            _ => 1,
        }
    }

    /// Options for one matrix, in a file that keeps scales as `scale_dtype`.
    pub fn options(&self, scale_dtype: FloatType) -> QuantOptions {
        let kind = match self.method {
            QuantMethod::Rtn | QuantMethod::Gptq => {
                let mse = self.mse.unwrap_or(self.method == QuantMethod::Gptq);
                CodeKind::Integer { bits: self.bits, symmetric: !self.asymmetric, mse }
            }
            QuantMethod::Nf4 => CodeKind::NormalFloat,
            QuantMethod::Learned | QuantMethod::Vector => {
                let width = self.vector_size();
                CodeKind::Learned { bits: self.bits * width as u32, width }
            }
        };
        let (damping, act_order, static_groups) = (self.damp_percent, self.act_order, self.static_groups);
        let feedback = Feedback { damping, act_order, static_groups };
        QuantOptions { kind, group_size: self.group_size(), scale_dtype, feedback }
    }
}
