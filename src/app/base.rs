//! The base model of a run whose model is dense: the run quantizes it first and keeps the result.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Value;

use super::event::{Event, OnEvent};
use super::open;
use super::quantize::calibration_samples;
use crate::checkpoint::{Checkpoint, Format, QuantizedFormat};
use crate::config::{Config, differing, shown};
use crate::error::{Error, Result};
use crate::quant::QuantizeConfig;
use crate::quantize::{self, QuantizeJob};
use crate::train::RunDir;

/// The settings with which the run has to quantize its model; `None` if the model is quantized already.
///
/// # Errors
/// The model is dense and the configuration has no `[quantize]` table, or the scales of a quantized model are not
/// finite.
pub fn quantization(
    config: &Config,
    source: &Checkpoint,
    on_event: OnEvent<'_>,
) -> Result<Option<QuantizeConfig>> {
    if source.format() != Format::HuggingFace {
        source.check_trainable()?;
        if config.quantize.is_some() {
            tracing::warn!("the [quantize] table is not used: the model is quantized already");
        }
        source.check_finite(&mut |done, of| {
            on_event(Event::Progress { work: "checking the model", done, of });
        })?;
        return Ok(None);
    }
    let quantize = config.quantize.clone().ok_or_else(|| {
        Error::invalid(
            format!(
                "{} is not quantized, and the configuration has no [quantize] table",
                source.path().display()
            ),
            "add a [quantize] table, or run `qzo quantize` first and name its result",
        )
    })?;
    quantize.warn_of_unused();
    Ok(Some(quantize))
}

/// Opens the quantized model in the run directory, to which the journal refers. The first call makes it.
///
/// # Errors
/// The run began with another model, text or settings; those of [`quantize::quantize`].
pub fn quantized(
    source: &Arc<Checkpoint>,
    quantize: QuantizeConfig,
    directory: &RunDir,
    job: QuantizeJob,
    on_event: OnEvent<'_>,
) -> Result<Arc<Checkpoint>> {
    let model = blake3::Hash::from_bytes(open::fingerprint(source, on_event)?).to_hex().to_string();
    let known = directory.read_origin::<Origin>()?;
    // Once the base model exists, its calibration text may be removed. A text that still exists must be the same.
    let text = quantize.calibration.as_ref().filter(|text| !directory.base().exists() || text.exists());
    let samples =
        text.map(|text| calibration_samples(source, text, &quantize, job.seed, on_event)).transpose()?;
    let calibration = samples.as_deref().map(quantize::digest);
    let origin = Origin { model, quantize, calibration };
    match known {
        Some(known) => known.check(&origin, source)?,
        None => directory.write_origin(&origin)?,
    }
    if !directory.base().exists() {
        let target = QuantizedFormat::of(origin.quantize.method);
        let on_event = &mut |event| on_event(Event::Quantize(event));
        quantize::quantize(source, &directory.base(), &origin.quantize, target, samples, job, on_event)?;
    }
    Ok(Arc::new(Checkpoint::open(&directory.base())?))
}

/// The origin of `base/`: the inputs from which it was made.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    /// Fingerprint of the dense model, hexadecimal.
    model: String,
    quantize: QuantizeConfig,
    /// BLAKE3 of the calibration text's tokens, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<String>,
}

impl Origin {
    /// Compares the recorded origin with that of the current call.
    ///
    /// # Errors
    /// `now` has another model, text or settings.
    fn check(&self, now: &Self, source: &Checkpoint) -> Result<()> {
        let (what, help) = if self.model != now.model {
            let what = format!("{} is not the model that this run quantized", source.path().display());
            (what, "resume with the same model, or start another run with -o")
        } else if self.has_other_text(now) {
            let what = "the calibration text is not the one with which this run quantized its model".into();
            (what, "resume with the same text, or start another run with -o")
        } else if self.settings() != now.settings() {
            let what = format!("the run quantized its model with other settings: {}", self.differences(now)?);
            (what, "resume with the same settings, or start another run with -o")
        } else {
            return Ok(());
        };
        Err(Error::invalid(what, help))
    }

    /// Whether the calibration texts differ. Their tokens are compared if both are known, otherwise their paths.
    fn has_other_text(&self, other: &Self) -> bool {
        match (&self.calibration, &other.calibration) {
            (Some(one), Some(other)) => one != other,
            _ => self.quantize.calibration != other.quantize.calibration,
        }
    }

    /// The settings of `now` that are others, by their keys.
    fn differences(&self, now: &Self) -> Result<String> {
        let value = |origin: &Self| {
            Value::try_from(origin.settings()).map_err(|error| Error::internal(error.to_string()))
        };
        let (old, new) = (value(self)?, value(now)?);
        let said = differing(Some(&old), Some(&new)).into_iter();
        let said: Vec<String> = said
            .map(|(key, old, new)| format!("quantize.{key} was {}, is {}", shown(old), shown(new)))
            .collect();
        Ok(said.join("; "))
    }

    fn settings(&self) -> QuantizeConfig {
        QuantizeConfig { calibration: None, ..self.quantize.clone() }
    }
}
