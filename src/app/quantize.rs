//! Quantizes a dense checkpoint.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::open;
use super::output::check_output;
use crate::checkpoint::{Checkpoint, MAX_SHARD_BYTES, QuantizedFormat};
use crate::device::DeviceSpec;
use crate::error::Result;
use crate::packed::FloatType;
use crate::quant::{QuantMethod, QuantizeConfig};
use crate::quantize::{self, LinearReport, QuantizeJob, Samples};

/// A quantization of a whole model.
#[derive(Debug, Clone)]
pub struct Quantize {
    /// A directory or a Hugging Face id.
    pub model: String,
    pub config: QuantizeConfig,
    /// `None`: the usual format of the method.
    pub format: Option<QuantizedFormat>,
    /// `None`: a name like MODEL-gptq-4bit in the current directory.
    pub output: Option<PathBuf>,
    /// Device for calibration. It is not opened otherwise.
    pub device: DeviceSpec,
    pub seed: u64,
    /// Largest size of a safetensors file, unless a single tensor is larger. `None`: 5 GB.
    pub max_shard_bytes: Option<u64>,
}

/// The result of a quantization.
#[derive(Debug, Clone, Serialize)]
pub struct QuantizeReport {
    pub output: PathBuf,
    pub format: QuantizedFormat,
    pub method: QuantMethod,
    pub bits: u32,
    /// Input features that share a scale; −1: a whole row.
    pub group_size: i64,
    pub symmetric: bool,
    /// Bits per quantized weight, including scales.
    pub bits_per_weight: f64,
    pub bytes_before: usize,
    pub bytes_after: usize,
    pub seconds: f64,
    /// Output errors of the calibrated linears.
    pub linears: Vec<LinearReport>,
}

/// Quantizes a model. If the process is killed, the same call continues the work.
///
/// # Errors
/// The settings contradict each other, the model is quantized already, or the output exists; the device, the disk or a
/// quantizer fails.
pub fn quantize(settings: &Quantize, on_event: OnEvent<'_>) -> Result<QuantizeReport> {
    let Quantize { model, config, device, seed, .. } = settings;
    config.validate()?;
    config.warn_of_unused();
    let target = settings.format.unwrap_or(QuantizedFormat::of(config.method));
    target.target(config, FloatType::F16)?;
    let output = settings.output.clone().unwrap_or_else(|| default_output(model, config, target));
    check_output(&output, target == QuantizedFormat::Gguf)?;
    if target == QuantizedFormat::Gguf && settings.max_shard_bytes.is_some() {
        tracing::warn!("--max-shard-size is not used: a GGUF model is a single file");
    }
    let source = open::checkpoint(model, on_event)?;
    let started = Instant::now();
    let max_shard_bytes = settings.max_shard_bytes.unwrap_or(MAX_SHARD_BYTES);
    let job = QuantizeJob { device: *device, seed: *seed, max_shard_bytes };
    quantize::check_new(&source, &output)?;
    let text = config.calibration.as_ref();
    let samples = text.map(|text| calibration_samples(&source, text, config, *seed, on_event)).transpose()?;
    let on_part = &mut |event| on_event(Event::Quantize(event));
    let linears = quantize::quantize(&source, &output, config, target, samples, job, on_part)?;
    let written = Checkpoint::open(&output)?;
    let bytes = |checkpoint: &Checkpoint| checkpoint.tensors().map(|t| t.bytes).sum::<usize>();
    Ok(QuantizeReport {
        output,
        format: target,
        method: config.method,
        bits: config.bits,
        group_size: config.group_size().map_or(-1, |size| size as i64),
        symmetric: !config.asymmetric,
        bits_per_weight: bits_per_weight(&written),
        bytes_before: bytes(&source),
        bytes_after: bytes(&written),
        seconds: started.elapsed().as_secs_f64(),
        linears,
    })
}

/// Opens the calibration text and draws samples from it.
///
/// # Errors
/// The text or the tokenizer cannot be read, or the text is too short.
pub fn calibration_samples(
    source: &Checkpoint,
    text: &Path,
    config: &QuantizeConfig,
    seed: u64,
    on_event: OnEvent<'_>,
) -> Result<Samples> {
    let (text, tokenizer) = (open::text(text, on_event)?, open::tokenizer(source)?);
    let on_event = &mut |event| on_event(Event::Quantize(event));
    quantize::samples(source, &tokenizer, &text, config, seed, on_event)
}

/// Bits per quantized weight, including scales.
fn bits_per_weight(written: &Checkpoint) -> f64 {
    let trained = written.trained_names();
    let weights = written.tensors().filter(|tensor| trained.binary_search(&tensor.name).is_ok());
    let (bits, count) = weights.fold((0.0, 0.0), |(bits, count), tensor| {
        let elements = tensor.shape.iter().product::<usize>() as f64;
        (bits + tensor.bits_per_weight * elements, count + elements)
    });
    bits / f64::max(count, 1.0)
}

fn default_output(model: &str, config: &QuantizeConfig, format: QuantizedFormat) -> PathBuf {
    // A revision may contain slashes, which must not become directories.
    let model = match model.split_once('@') {
        Some((name, revision)) if !Path::new(model).exists() => {
            &format!("{name}@{}", revision.replace('/', "-"))
        }
        _ => model,
    };
    let name = Path::new(model).file_name().map_or("model".into(), |name| name.to_string_lossy());
    let method = format!("{:?}", config.method).to_lowercase();
    let ending = if format == QuantizedFormat::Gguf { ".gguf" } else { "" };
    PathBuf::from(format!("{name}-{method}-{}bit{ending}", config.bits))
}
