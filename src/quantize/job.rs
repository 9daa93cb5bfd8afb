//! The job: turns a dense checkpoint into a quantized one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::calibrate::{Calibration, check_memory};
use super::event::{LinearReport, QuantizeEvent};
use super::workspace::Workspace;
use crate::checkpoint::{
    self, Checkpoint, Format, Layout, Linears, PackedLinears, Passed, QuantizedFormat, RowReader, WriteTarget,
};
use crate::data::{Tokenizer, calibration};
use crate::device::{ComputeType, DeviceSpec};
use crate::error::{Error, Result};
use crate::model::{block_by_block, check_tokens};
use crate::packed::{FloatType, PackedWeight};
use crate::quant::{CALIBRATION_LENGTH, QuantOptions, QuantizeConfig, Rounding};

/// The settings of a quantization beside the [`QuantizeConfig`].
#[derive(Debug, Clone, Copy)]
pub struct QuantizeJob {
    /// Device for calibration. It is not opened otherwise.
    pub device: DeviceSpec,
    pub seed: u64,
    /// Largest size of a safetensors file, unless a single tensor is larger.
    pub max_shard_bytes: u64,
}

/// Quantizes `source` into the new directory or file `out`, calibrated on `samples` if there are any. Returns the
/// output errors of the calibrated linears.
///
/// # Errors
/// `source` is quantized already, `out` exists, or the format cannot hold the result; the memory does not suffice; the
/// device, the disk or a quantizer fails.
pub fn quantize(
    source: &Arc<Checkpoint>,
    out: &Path,
    config: &QuantizeConfig,
    target: QuantizedFormat,
    samples: Option<Samples>,
    job: QuantizeJob,
    on_event: &mut dyn FnMut(QuantizeEvent),
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
        let round =
            &mut |name: &str, shape: [usize; 2], rows: &RowReader<'_>| nearest(name, shape, rows, options);
        let written = write(source, &workspace, &layout, job, PackedLinears::Rounded(round), on_event);
        // After a kill, the next run continues in the workspace. After an error, it would only take up space.
        let removed = workspace.remove();
        return written.and(removed).map(|()| vec![]);
    };
    let calibration = Calibration { checkpoint: source, samples: &samples, options, workspace: &workspace };
    let mut model = block_by_block(Arc::clone(source), &device, ComputeType::F32)?;
    let mut linears = Vec::new();
    calibration.run(model.as_mut(), &mut |event| {
        if let QuantizeEvent::Linear(report) = &event {
            linears.push(report.clone());
        }
        on_event(event);
    })?;
    drop(model);
    let mut finished = workspace.finished();
    write(source, &workspace, &layout, job, PackedLinears::Made(&mut |name| finished.take(name)), on_event)?;
    workspace.remove()?;
    Ok(linears)
}

/// Checks that `source` is dense and `out` does not exist.
///
/// # Errors
/// The model is quantized already, or `out` exists.
pub fn check_new(source: &Checkpoint, out: &Path) -> Result<()> {
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

fn write(
    source: &Checkpoint,
    workspace: &Workspace,
    target: &WriteTarget,
    job: QuantizeJob,
    packed: PackedLinears<'_>,
    on_event: &mut dyn FnMut(QuantizeEvent),
) -> Result<()> {
    let names = source.config().block_linears();
    let on_tensor = &mut |passed: Passed| on_event(QuantizeEvent::Written(passed));
    let linears = &mut Linears { names: &names, packed, replaced: BTreeMap::new(), on_tensor };
    checkpoint::write(source, workspace.result()?, target, job.max_shard_bytes, linears).map(|_| ())
}

fn nearest(
    name: &str,
    shape: [usize; 2],
    rows: &RowReader<'_>,
    options: QuantOptions,
) -> Result<PackedWeight> {
    let round = || -> Result<PackedWeight> {
        let mut rounding = Rounding::new(shape, options)?;
        rows(&mut |piece| rounding.push(piece.rows(), &|rows, weights| piece.decode(rows, weights)))?;
        rounding.finish()
    };
    round().map_err(|error| error.about(name))
}

/// Calibration samples: windows of token ids.
pub type Samples = Vec<Vec<u32>>;

/// Reads the calibration text and draws samples from it. The text is read only once, so that it may be a pipe.
///
/// # Errors
/// The text cannot be read or is too short, or the tokenizer does not belong to the model.
pub fn samples(
    source: &Checkpoint,
    tokenizer: &Tokenizer,
    text: &Path,
    config: &QuantizeConfig,
    seed: u64,
    on_event: &mut dyn FnMut(QuantizeEvent),
) -> Result<Samples> {
    let context = source.config().max_position_embeddings;
    let wanted = config.calibration_samples;
    let length = config.calibration_length.unwrap_or(CALIBRATION_LENGTH.min(context));
    if length > context {
        return Err(Error::invalid(
            format!("samples of {length} tokens: the model's context holds {context}"),
            format!("use a --calibration-length of at most {context}"),
        ));
    }
    let samples = calibration::windows(text, tokenizer, wanted, length, seed)?;
    samples.iter().try_for_each(|tokens| check_tokens(tokens, source.config().vocab_size))?;
    if samples.len() < wanted {
        let (text, found) = (text.to_path_buf(), samples.len());
        on_event(QuantizeEvent::FewSamples { text, found, tokens: length, wanted });
    }
    Ok(samples)
}

/// BLAKE3 of the samples' tokens, hexadecimal.
pub fn digest(samples: &[Vec<u32>]) -> String {
    let tokens: Vec<u8> = samples.iter().flatten().flat_map(|token| token.to_le_bytes()).collect();
    blake3::hash(&tokens).to_hex().to_string()
}

/// All settings that determine the result.
fn settings(
    source: &Checkpoint,
    config: &QuantizeConfig,
    format: QuantizedFormat,
    samples: Option<&[Vec<u32>]>,
    job: QuantizeJob,
) -> Result<Value> {
    let config = QuantizeConfig { calibration: None, ..config.clone() };
    let mut settings = serde_json::to_value(config).map_err(|e| Error::internal(e.to_string()))?;
    if let Some(settings) = settings.as_object_mut() {
        settings.insert("model".into(), blake3::Hash::from(source.stamp()?).to_hex().to_string().into());
        settings.insert("calibration".into(), json!(samples.map(digest)));
        settings.insert("format".into(), json!(format));
        settings.insert("max_shard_size".into(), json!(job.max_shard_bytes));
    }
    Ok(settings)
}

/// The type in which the checkpoint stores its linears.
fn stored_type(source: &Checkpoint) -> Result<FloatType> {
    let linears = source.config().block_linears();
    match linears.first().map(|name| source.layout(name)).transpose()? {
        Some(Layout::Dense(dtype)) => Ok(dtype),
        _ => Ok(FloatType::F32),
    }
}
