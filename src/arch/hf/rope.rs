//! The keys of rotary position embeddings, old and new.

use std::path::Path;

use serde::Deserialize;

use super::family;
use super::keys::unsupported;
use super::loose::Flag;
use crate::arch::rope::QueryScaling;
use crate::arch::{Family, RopeScaling, Yarn};
use crate::error::{Error, Result};

#[derive(Deserialize)]
pub struct RopeKeys {
    max_position_embeddings: Option<usize>,
    original_max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    /// The base of layers with a sliding window, which are not scaled.
    rope_local_base_freq: Option<f64>,
    /// Old: `{"type" | "rope_type", …}`, with `rope_theta` beside it.
    rope_scaling: Option<RotaryKeys>,
    /// New: `{"rope_type", "rope_theta", …}`.
    rope_parameters: Option<RotaryParameters>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RotaryParameters {
    ByLayerType { full_attention: RotaryKeys, sliding_attention: Option<Box<RotaryKeys>> },
    One(RotaryKeys),
}

#[derive(Default, Clone, PartialEq, Deserialize)]
struct RotaryKeys {
    rope_type: Option<String>,
    /// The old name of `rope_type`, which some files have beside the new one.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    attention_factor: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    mscale: Option<f32>,
    mscale_all_dim: Option<f32>,
    truncate: Option<Flag>,
    llama_4_scaling_beta: Option<f32>,
    partial_rotary_factor: Option<f64>,
}

/// The rotation of a model, as its keys say.
pub struct Rotary {
    pub theta: f64,
    pub scaling: Option<RopeScaling>,
    /// The number of features of each head that are rotated.
    pub dim: usize,
    pub max_position_embeddings: usize,
    /// The base of layers with a sliding window, where it differs.
    pub local_theta: Option<f64>,
}

/// The rotation of a family's layers.
///
/// # Errors
/// A variant other than the supported ones, or one without its numbers.
pub fn parse(path: &Path, family: Family, raw: &RopeKeys, head_dim: usize) -> Result<Rotary> {
    let parameters = raw.rope_parameters.as_ref().filter(|parameters| !parameters.is_empty());
    if let (Some(RotaryParameters::One(new)), Some(old)) = (parameters, &raw.rope_scaling)
        && !new.rotates_as(old)
    {
        return Err(Error::unsupported(
            format!("{}: rope_parameters and rope_scaling say different things", path.display()),
            "keep the one that is meant: transformers 5 takes rope_scaling where both are there",
        ));
    }
    let (scaling, local) = match parameters {
        Some(RotaryParameters::One(scaling)) => (Some(scaling), None),
        Some(RotaryParameters::ByLayerType { full_attention, sliding_attention }) => {
            (Some(full_attention), sliding_attention.as_deref())
        }
        None => (raw.rope_scaling.as_ref(), None),
    };
    let partial = scaling.and_then(|r| r.partial_rotary_factor).or(raw.partial_rotary_factor);
    let dim = match partial {
        None | Some(1.0) => head_dim,
        Some(part) if family == Family::Phi3 => (head_dim as f64 * part) as usize,
        Some(_) => {
            return Err(unsupported(path, "partial_rotary_factor other than 1", "full rotary embeddings"));
        }
    };
    let defaults = family::defaults(family);
    let theta = scaling.and_then(|r| r.rope_theta).or(raw.rope_theta);
    let local_theta = local.and_then(|r| r.rope_theta).or(raw.rope_local_base_freq);
    let mut rotary = Rotary {
        theta: theta.unwrap_or(defaults.rope_theta),
        scaling: None,
        dim,
        max_position_embeddings: raw.max_position_embeddings.unwrap_or(defaults.max_position_embeddings),
        local_theta: (family == Family::Gemma3).then_some(local_theta.unwrap_or(1e4)),
    };
    match scaling {
        Some(scaling) if is_longrope(family, scaling) => longrope(path, family, raw, scaling, &mut rotary)?,
        Some(scaling) => rotary.scaling = scaled(path, raw, scaling, rotary.max_position_embeddings)?,
        None if family == Family::Ministral3 => return Err(Error::damaged(path, "has no rope_parameters")),
        None => {}
    }
    if let Some(RopeScaling::Yarn(yarn)) = &rotary.scaling {
        rotary.max_position_embeddings = yarn.longest_here(rotary.max_position_embeddings);
    }
    if family == Family::Olmo3 {
        // Layers with a window are not scaled.
        let differs = |theta: &f64| rotary.scaling.is_some() || *theta != rotary.theta;
        rotary.local_theta = Some(local.and_then(|r| r.rope_theta).unwrap_or(rotary.theta)).filter(differs);
    }
    Ok(rotary)
}

impl RotaryParameters {
    /// Whether it is `{}`, which means the same as null.
    fn is_empty(&self) -> bool {
        matches!(self, Self::One(scaling) if *scaling == RotaryKeys::default())
    }
}

impl RotaryKeys {
    /// Whether both mean the same rotation. Either may leave out what the other says of kind and base.
    fn rotates_as(&self, other: &Self) -> bool {
        let rest = |keys: &Self| Self { rope_type: None, old_type: None, rope_theta: None, ..keys.clone() };
        let kind = |keys: &Self| keys.kind().unwrap_or("default").to_owned();
        let is_empty = *other == Self::default();
        let same_base =
            self.rope_theta.is_none() || other.rope_theta.is_none_or(|theta| self.rope_theta == Some(theta));
        is_empty || kind(self) == kind(other) && same_base && rest(self) == rest(other)
    }

    fn kind(&self) -> Option<&str> {
        self.rope_type.as_deref().or(self.old_type.as_deref())
    }
}

fn is_longrope(family: Family, scaling: &RotaryKeys) -> bool {
    let kind = scaling.kind();
    // "su" and "yarn" stood for it in early files of Phi-3; transformers reads them so, too.
    kind == Some("longrope") || family == Family::Phi3 && matches!(kind, Some("su" | "yarn"))
}

/// LongRoPE (Ding et al. 2024) changes the frequencies of the whole text once it is longer than the original context.
/// Here the context is limited to the original one.
fn longrope(
    path: &Path,
    family: Family,
    raw: &RopeKeys,
    scaling: &RotaryKeys,
    rotary: &mut Rotary,
) -> Result<()> {
    let longest = rotary.max_position_embeddings;
    let stated = raw.original_max_position_embeddings.or(scaling.original_max_position_embeddings);
    // The defaults of transformers.
    let original = stated.unwrap_or(if family == Family::Phi3 { 4096 } else { longest });
    if original == 0 {
        return Err(Error::damaged(path, "original_max_position_embeddings is 0"));
    }
    let short_factor = need(path, scaling.short_factor.clone(), "short_factor")?;
    let stretch = scaling.factor.map_or(longest as f64 / original as f64, f64::from);
    let by_paper = (1.0 + stretch.max(1.0).ln() / (original as f64).ln()).sqrt() as f32;
    let attention_factor = scaling.attention_factor.unwrap_or(by_paper);
    let long_factor = scaling.long_factor.clone().unwrap_or_else(|| short_factor.clone());
    rotary.scaling = Some(RopeScaling::LongRope { short_factor, attention_factor, long_factor, longest });
    rotary.max_position_embeddings = longest.min(original);
    Ok(())
}

fn scaled(
    path: &Path,
    raw: &RopeKeys,
    scaling: &RotaryKeys,
    max_position_embeddings: usize,
) -> Result<Option<RopeScaling>> {
    match scaling.kind() {
        // Dynamic scaling begins beyond the model's context. The "mrope" of vision-language models gives each token three
        // positions, which are equal for text.
        None | Some("default" | "dynamic" | "mrope") => Ok(None),
        Some("yarn") => yarn(path, raw, scaling, max_position_embeddings).map(Some),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: need(path, scaling.factor, "factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: need(path, scaling.factor, "factor")?,
            low_freq_factor: need(path, scaling.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: need(path, scaling.high_freq_factor, "high_freq_factor")?,
            original_max_position_embeddings: scaling
                .original_max_position_embeddings
                .unwrap_or(max_position_embeddings),
        })),
        Some(other) => Err(unsupported(
            path,
            format!("rope type \"{other}\""),
            "default, linear, llama3, yarn, longrope, dynamic",
        )),
    }
}

fn yarn(
    path: &Path,
    raw: &RopeKeys,
    scaling: &RotaryKeys,
    max_position_embeddings: usize,
) -> Result<RopeScaling> {
    let original = scaling
        .original_max_position_embeddings
        .or(raw.original_max_position_embeddings)
        .unwrap_or(max_position_embeddings);
    let factor = scaling.factor.unwrap_or(max_position_embeddings as f32 / original as f32);
    let by_paper = |weight| Yarn::paper_attention_factor(factor, weight);
    let set = |value: Option<f32>| value.filter(|value| *value != 0.0);
    let attention_factor = match (scaling.attention_factor, set(scaling.mscale), set(scaling.mscale_all_dim))
    {
        (Some(given), _, _) => given,
        (None, Some(above), Some(below)) => by_paper(above) / by_paper(below),
        (None, _, _) => by_paper(1.0),
    };
    if original == 0 {
        return Err(Error::damaged(path, "original_max_position_embeddings is 0"));
    }
    Ok(RopeScaling::Yarn(Yarn {
        factor,
        beta_fast: set(scaling.beta_fast).unwrap_or(Yarn::BETA_FAST),
        beta_slow: set(scaling.beta_slow).unwrap_or(Yarn::BETA_SLOW),
        original_max_position_embeddings: original,
        attention_factor,
        truncate: scaling.truncate.is_none_or(|truncate| truncate.0),
        queries: set(scaling.llama_4_scaling_beta)
            .map(|beta| QueryScaling { beta, longest: max_position_embeddings }),
    }))
}

fn need<T>(path: &Path, value: Option<T>, key: &str) -> Result<T> {
    value.ok_or_else(|| Error::damaged(path, format!("rope scaling without `{key}`")))
}
