use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::console::Console;
use super::export::check_output;
use super::size::ByteSize;
use super::{Common, open};
use crate::checkpoint::{
    self, Checkpoint, Format, Layout, Linears, MAX_SHARD_BYTES, Packed, Passed, QuantizedFormat, Rows, Target,
};
use crate::data::calibration;
use crate::device::{ComputeType, DeviceSpec};
use crate::error::{Error, Result};
use crate::model;
use crate::packed::FloatType;
use crate::packed::PackedWeight;
use crate::quant::{CALIBRATION_LENGTH, Method, Options, OutputError, QuantizeConfig, Rounding};
use crate::quantize::Workspace;
use crate::quantize::{Calibration, Event, LinearReport, check_memory};

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

/// Where and how a quantization is done.
#[derive(Clone, Copy)]
pub struct Job {
    /// Opened for calibration alone.
    pub device: DeviceSpec,
    pub seed: u64,
    pub max_shard_bytes: u64,
    pub console: Console,
}

pub fn run(args: &QuantizeArgs, common: &Common) -> Result<()> {
    let console = common.console();
    let config = args.config();
    config.validate()?;
    config.warn_of_unused();
    let target = args.format.unwrap_or(QuantizedFormat::of(config.method));
    target.target(&config, FloatType::F16)?;
    let out = args.output.clone().unwrap_or_else(|| default_output(&args.model, &config, target));
    check_output(&out, target == QuantizedFormat::Gguf)?;
    if target == QuantizedFormat::Gguf && args.max_shard_size.is_some() {
        tracing::warn!("--max-shard-size is not used: a GGUF is one file");
    }
    let source = open::checkpoint(&args.model, console)?;
    let started = Instant::now();
    let job = Job {
        device: common.device.unwrap_or_default(),
        seed: common.seed.unwrap_or(0),
        max_shard_bytes: args.max_shard_size.map_or(MAX_SHARD_BYTES, |size| size.0),
        console,
    };
    check_new(&source, &out)?;
    let samples = samples(&source, &config, job)?;
    let linears = quantize(&source, &out, &config, target, samples, job)?;
    let written = Checkpoint::open(&out)?;
    let bytes = |c: &Checkpoint| c.tensors().map(|t| t.bytes).sum::<usize>();
    let (before, after, bits) = (bytes(&source), bytes(&written), bits_per_weight(&written));
    let report = json!({
        "output": out, "format": target, "method": config.method, "bits": config.bits,
        "group_size": config.group_size().map_or(-1, |size| size as i64), "symmetric": !config.asymmetric,
        "bits_per_weight": bits, "bytes_before": before, "bytes_after": after,
        "seconds": started.elapsed().as_secs_f64(), "linears": linears,
    });
    console.result(&report, || {
        let (before, after) = (before as f64 / 1e6, after as f64 / 1e6);
        format!(
            "{}: {after:.1} MB of tensors, {before:.1} MB before; {bits:.2} bits per weight",
            out.display()
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

fn check_new(source: &Checkpoint, out: &Path) -> Result<()> {
    if source.format() != Format::HuggingFace {
        source.check_trainable()?;
        return Err(Error::invalid(
            format!("{} is quantized already ({})", source.path().display(), source.format()),
            "fine-tune it as it is: qzo keeps its codes and trains its scales",
        ));
    }
    if out.symlink_metadata().is_ok() {
        return Err(Error::invalid(
            format!("{} exists already", out.display()),
            "choose another output directory, or move this one away: nothing is overwritten",
        ));
    }
    Ok(())
}

/// Quantizes `source` into the new directory or file `out`, calibrated on `samples` if there are any. Gives the output
/// error of each calibrated linear.
pub fn quantize(
    source: &Arc<Checkpoint>,
    out: &Path,
    config: &QuantizeConfig,
    target: QuantizedFormat,
    samples: Option<Samples>,
    job: Job,
) -> Result<Vec<LinearReport>> {
    check_new(source, out)?;
    let layout = target.target(config, stored_type(source)?)?;
    layout.check(source)?;
    let options = config.options(layout.scale_dtype());
    let calibrated = match samples {
        None => None,
        Some(samples) => {
            check_memory(source)?;
            Some((samples, job.device.resolve()?))
        }
    };
    let samples = calibrated.as_ref().map(|(samples, _)| &samples[..]);
    let workspace = Workspace::open(out, &settings(source, config, target, samples, job)?)?;
    let Some((samples, device)) = calibrated else {
        let round = &mut |name: &str, shape: [usize; 2], rows: &Rows<'_>| nearest(name, shape, rows, options);
        let written = write(source, &workspace, &layout, job, Packed::Rounded(round));
        // A run that is killed goes on with it; after an error it would only take up the disk.
        let removed = workspace.remove();
        return written.and(removed).map(|()| vec![]);
    };
    let calibration = Calibration { checkpoint: source, samples: &samples, options, workspace: &workspace };
    let mut model = model::block_by_block(Arc::clone(source), &device, ComputeType::F32)?;
    let linears = calibrate(calibration, model.as_mut(), job.console)?;
    drop(model);
    let mut finished = workspace.finished();
    write(source, &workspace, &layout, job, Packed::Made(&mut |name| finished.take(name)))?;
    workspace.remove()?;
    Ok(linears)
}

fn write(
    source: &Checkpoint,
    workspace: &Workspace,
    target: &Target,
    job: Job,
    packed: Packed<'_>,
) -> Result<()> {
    let mut bar = job.console.bytes("writing");
    let names = source.config().block_linears();
    let on_tensor = &mut |passed: Passed| bar.pass(passed.bytes, passed.of, !passed.was_there);
    let linears = &mut Linears { names: &names, packed, on_tensor };
    checkpoint::write(source, workspace.result()?, target, job.max_shard_bytes, linears)?;
    bar.finish();
    Ok(())
}

fn nearest(name: &str, shape: [usize; 2], rows: &Rows<'_>, options: Options) -> Result<PackedWeight> {
    let round = || -> Result<PackedWeight> {
        let mut rounding = Rounding::new(shape, options)?;
        rows(&mut |piece| rounding.push(piece.rows(), &|rows, weights| piece.decode(rows, weights)))?;
        rounding.finish()
    };
    round().map_err(|error| match error {
        Error::Invalid { what, help } => Error::invalid(format!("{name}: {what}"), help),
        other => other,
    })
}

/// Windows of tokens.
pub type Samples = Vec<Vec<u32>>;

/// Reads the calibration text, if there is one, and draws its windows. It is read once, so that it may be a pipe.
///
/// # Errors
/// A text that cannot be read or is too short; a tokenizer that does not belong to the model.
pub fn samples(source: &Checkpoint, config: &QuantizeConfig, job: Job) -> Result<Option<Samples>> {
    let Some(text) = &config.calibration else { return Ok(None) };
    let context = source.config().max_position_embeddings;
    let wanted = config.calibration_samples;
    let length = config.calibration_length.unwrap_or(CALIBRATION_LENGTH.min(context));
    if length > context {
        return Err(Error::invalid(
            format!("samples of {length} tokens: the model's context holds {context}"),
            format!("use a --calibration-length of at most {context}"),
        ));
    }
    let (text, tokenizer) = (open::text(text, job.console)?, open::tokenizer(source)?);
    let samples = calibration::windows(&text, &tokenizer, wanted, length, job.seed)?;
    samples.iter().try_for_each(|tokens| model::check_tokens(tokens, source.config().vocab_size))?;
    if samples.len() < wanted {
        let few =
            format!("{} has {} windows of {length} tokens, not {wanted}", text.display(), samples.len());
        job.console.note(&format!("note: {few}; the result is better with more"));
    }
    Ok(Some(samples))
}

/// BLAKE3 of the samples' tokens, hexadecimal.
pub fn digest(samples: &[Vec<u32>]) -> String {
    let tokens: Vec<u8> = samples.iter().flatten().flat_map(|token| token.to_le_bytes()).collect();
    blake3::hash(&tokens).to_hex().to_string()
}

/// All that decides what is written.
fn settings(
    source: &Checkpoint,
    config: &QuantizeConfig,
    format: QuantizedFormat,
    samples: Option<&[Vec<u32>]>,
    job: Job,
) -> Result<Value> {
    let config = QuantizeConfig { calibration: None, ..config.clone() };
    let mut settings = serde_json::to_value(config).map_err(|e| Error::invalid(e.to_string(), ""))?;
    if let Some(settings) = settings.as_object_mut() {
        settings.insert("model".into(), blake3::Hash::from(source.stamp()?).to_hex().to_string().into());
        settings.insert("calibration".into(), json!(samples.map(digest)));
        settings.insert("format".into(), json!(format));
        settings.insert("max_shard_size".into(), json!(job.max_shard_bytes));
    }
    Ok(settings)
}

fn calibrate(
    calibration: Calibration<'_>,
    model: &mut dyn model::BlockByBlock,
    console: Console,
) -> Result<Vec<LinearReport>> {
    let blocks = calibration.checkpoint.config().num_hidden_layers;
    let mut bar = console.progress("quantizing", blocks as u64);
    let (started, mut resumed, mut linears) = (Instant::now(), 0, vec![]);
    calibration.run(model, &mut |event| match event {
        Event::Resumed { blocks } => {
            resumed = blocks;
            bar.set(blocks as u64);
            bar.note(&format!("continuing after block {blocks}"));
        }
        Event::Linear(report) => {
            tracing::info!("{}: {}", report.name, describe(report.error));
            linears.push(report);
        }
        Event::Block { done, of, error } => {
            bar.set(done as u64);
            let each = started.elapsed().as_secs_f64() / (done - resumed).max(1) as f64;
            let left = each * (of - done) as f64;
            bar.note(&format!("block {done}/{of}  {}  {left:.0} s left", describe(error)));
        }
    })?;
    bar.finish();
    Ok(linears)
}

fn describe(error: OutputError) -> String {
    format!("output error {:.4} % rounded, {:.4} % so", 100.0 * error.nearest, 100.0 * error.feedback)
}

/// Of the dense linears.
fn stored_type(source: &Checkpoint) -> Result<FloatType> {
    let linears = source.config().block_linears();
    match linears.first().map(|name| source.layout(name)).transpose()? {
        Some(Layout::Dense(dtype)) => Ok(dtype),
        _ => Ok(FloatType::F32),
    }
}

/// Of the quantized weights, scales and all.
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
    // A revision may have slashes; what is left of it is no directory.
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
