//! The quantized model that a run makes for itself, where its model is dense.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::{Event, OnEvent};
use super::open;
use crate::checkpoint::{Checkpoint, Format, QuantizedFormat};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::quant::QuantizeConfig;
use crate::quantize::{self, QuantizeJob};
use crate::train::RunDir;

/// How the model still has to be quantized; `None` where it is quantized.
///
/// # Errors
/// A dense model without a `[quantize]` table; a quantized one whose scales are not finite.
pub fn quantization(config: &Config, source: &Checkpoint) -> Result<Option<QuantizeConfig>> {
    if source.format() != Format::HuggingFace {
        source.check_trainable()?;
        if config.quantize.is_some() {
            tracing::warn!("the [quantize] table is not used: the model is quantized already");
        }
        source.check_finite()?;
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

/// The quantized model that the journal will refer to, made once and kept in the run directory.
///
/// # Errors
/// The run was begun with another model, text or settings; what quantizing meets.
pub fn quantized(
    source: &Arc<Checkpoint>,
    quantize: QuantizeConfig,
    directory: &RunDir,
    job: QuantizeJob,
    on_event: OnEvent<'_>,
) -> Result<Arc<Checkpoint>> {
    let model = blake3::Hash::from_bytes(source.fingerprint()?).to_hex().to_string();
    let known = directory.read_origin::<Origin>()?;
    // Once the base is there, its text may go; one that is there is held against it.
    let text = quantize.calibration.as_ref().filter(|text| !directory.base().exists() || text.exists());
    let samples = match text {
        Some(text) => {
            let (text, tokenizer) = (open::text(text, on_event)?, open::tokenizer(source)?);
            let on_event = &mut |event| on_event(Event::Quantize(event));
            Some(quantize::samples(source, &tokenizer, &text, &quantize, job.seed, on_event)?)
        }
        None => None,
    };
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

/// The origin of `base/`.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    /// Fingerprint of the source, hexadecimal.
    model: String,
    quantize: QuantizeConfig,
    /// BLAKE3 of the calibration text's tokens, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<String>,
}

impl Origin {
    /// # Errors
    /// `now` is of another model, text or settings.
    fn check(&self, now: &Self, source: &Checkpoint) -> Result<()> {
        let (what, help) = if self.model != now.model {
            let what =
                format!("{} is another model than the one this run quantized", source.path().display());
            (what, "resume with the same model, or start another run with -o")
        } else if self.has_other_text(now) {
            let what = "the calibration text is another one than this run quantized its model with".into();
            (what, "resume with the same text, or start another run with -o")
        } else if self.settings() != now.settings() {
            let what = format!("[quantize] differs from what this run was started with: {:?}", self.quantize);
            (what, "resume with the same settings, or start another run with -o")
        } else {
            return Ok(());
        };
        Err(Error::invalid(what, help))
    }

    /// Whether the calibration texts differ: by their tokens if both are known, else by their paths.
    fn has_other_text(&self, other: &Self) -> bool {
        match (&self.calibration, &other.calibration) {
            (Some(one), Some(other)) => one != other,
            _ => self.quantize.calibration != other.quantize.calibration,
        }
    }

    fn settings(&self) -> QuantizeConfig {
        QuantizeConfig { calibration: None, ..self.quantize.clone() }
    }
}
