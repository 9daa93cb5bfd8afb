//! Rotary position embeddings in the key-values of a file and in tensors of their own, read and written.

use super::family::Architecture;
use super::keys::Keys;
use super::names::{LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS};
use super::writer::Meta;
use crate::arch::rope::QueryScaling;
use crate::arch::{Family, ModelConfig, RopeScaling, Yarn};
use crate::error::{Error, Result};

/// RoPE scaling, and the longest context with it. `factors` gives the divisors in a tensor by its name.
///
/// # Errors
/// Another kind of scaling, or two at once; a mistyped key.
pub fn read(
    keys: &Keys<'_>,
    architecture: Architecture,
    factors: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<(Option<RopeScaling>, usize)> {
    let own = |key: &str| architecture.key(key);
    let context = keys.dimension(&own("context_length"))?;
    let Some(short_factor) = factors(SHORT_FACTORS) else {
        let scaling = scaling(keys, architecture, factors(ROPE_FACTORS), context)?;
        let longest = match &scaling {
            Some(RopeScaling::Yarn(yarn)) => yarn.longest_here(context),
            _ => context,
        };
        return Ok((scaling, longest));
    };
    // Longer contexts than the original have other factors: see `hf::rope`.
    let original = keys.count(&own("rope.scaling.original_context_length"))?.unwrap_or(context);
    let attention_factor = keys.float(&own("rope.scaling.attn_factor"))?.unwrap_or(1.0) as f32;
    let long_factor = factors(LONG_FACTORS).unwrap_or_else(|| short_factor.clone());
    let scaling = RopeScaling::LongRope { short_factor, attention_factor, long_factor, longest: context };
    Ok((Some(scaling), context.min(original)))
}

fn scaling(
    keys: &Keys<'_>,
    architecture: Architecture,
    factors: Option<Vec<f32>>,
    context: usize,
) -> Result<Option<RopeScaling>> {
    let own = |key: &str| architecture.key(&format!("rope.{key}"));
    let kind = keys.string(&own("scaling.type"))?;
    let factor = match keys.float(&own("scaling.factor"))? {
        Some(factor) => Some(factor as f32),
        None => keys.float(&own("scale_linear"))?.map(|factor| factor as f32),
    };
    let by_keys = match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => None,
        (None | Some("linear"), Some(factor)) => Some(RopeScaling::Linear { factor }),
        (Some("yarn"), Some(factor)) => Some(RopeScaling::Yarn(yarn(keys, architecture, factor, context)?)),
        (Some(other), _) => {
            return Err(
                keys.unsupported(format!("rope.scaling.type \"{other}\""), "none, linear, yarn, rope_freqs")
            );
        }
    };
    match (by_keys, factors) {
        (Some(_), Some(_)) => {
            Err(keys.unsupported("rope scaling by a factor together with rope_freqs".into(), "one of them"))
        }
        (by_keys, factors) => Ok(by_keys.or(factors.map(RopeScaling::Factors))),
    }
}

/// llama.cpp reads the betas and the weight of the factor's logarithm for few architectures (`llama_context`, and
/// `load_arch_hparams` of each).
fn yarn(keys: &Keys<'_>, architecture: Architecture, factor: f32, context: usize) -> Result<Yarn> {
    let float = |key: &str| Ok::<_, Error>(keys.float(&architecture.key(key))?.map(|value| value as f32));
    let own = |key: &str| if architecture.has_yarn_keys() { float(key) } else { Ok(None) };
    let original = keys.count(&architecture.key("rope.scaling.original_context_length"))?.unwrap_or(context);
    if original == 0 {
        return Err(Error::damaged(keys.path, "rope.scaling.original_context_length is 0"));
    }
    let by_paper = match own("rope.scaling.yarn_log_multiplier")? {
        None | Some(0.0) => Yarn::paper_attention_factor(factor, 1.0),
        Some(weight) => {
            Yarn::paper_attention_factor(factor, 1.0) / Yarn::paper_attention_factor(factor, weight)
        }
    };
    let beta = own("attention.temperature_scale")?.filter(|beta| *beta != 0.0);
    Ok(Yarn {
        factor,
        beta_fast: own("rope.scaling.yarn_beta_fast")?.unwrap_or(Yarn::BETA_FAST),
        beta_slow: own("rope.scaling.yarn_beta_slow")?.unwrap_or(Yarn::BETA_SLOW),
        original_max_position_embeddings: original,
        attention_factor: by_paper * float("rope.scaling.attn_factor")?.unwrap_or(1.0),
        truncate: true,
        queries: beta.map(|beta| QueryScaling { beta, longest: context }),
    })
}

/// The architecture's keys of a scaling, and of the longest context.
pub fn keys(config: &ModelConfig, architecture: Architecture) -> Vec<(&'static str, Meta)> {
    let count = |count: usize| Meta::U32(count as u32);
    let longest = match &config.rope_scaling {
        Some(RopeScaling::LongRope { longest, .. })
        | Some(RopeScaling::Yarn(Yarn { queries: Some(QueryScaling { longest, .. }), .. })) => *longest,
        _ => config.max_position_embeddings,
    };
    let mut keys = vec![("context_length", count(longest))];
    match &config.rope_scaling {
        Some(RopeScaling::Linear { factor }) => {
            keys.push(("rope.scaling.type", Meta::String("linear".into())));
            keys.push(("rope.scaling.factor", Meta::F32(*factor)));
        }
        Some(RopeScaling::LongRope { attention_factor, .. }) => {
            // Without it, llama.cpp looks for the tensors of Phi-3 alone.
            if architecture.family != Family::Phi3 {
                keys.push(("rope.scaling.type", Meta::String("longrope".into())));
            }
            keys.push(("rope.scaling.original_context_length", count(config.max_position_embeddings)));
            keys.push(("rope.scaling.attn_factor", Meta::F32(*attention_factor)));
        }
        Some(RopeScaling::Yarn(yarn)) => {
            keys.push(("rope.scaling.type", Meta::String("yarn".into())));
            keys.push(("rope.scaling.factor", Meta::F32(yarn.factor)));
            keys.push(("rope.scaling.original_context_length", count(yarn.original_max_position_embeddings)));
            let by_paper = Yarn::paper_attention_factor(yarn.factor, 1.0);
            if architecture.has_yarn_keys() {
                keys.push(("rope.scaling.yarn_beta_fast", Meta::F32(yarn.beta_fast)));
                keys.push(("rope.scaling.yarn_beta_slow", Meta::F32(yarn.beta_slow)));
            }
            match yarn.attention_factor {
                // The weight of Ministral 3, with which the factor is 1.
                1.0 if architecture.has_yarn_keys() => {
                    keys.push(("rope.scaling.yarn_log_multiplier", Meta::F32(1.0)));
                }
                factor if factor == by_paper => {}
                factor => keys.push(("rope.scaling.attn_factor", Meta::F32(factor / by_paper))),
            }
            keys.extend(yarn.queries.map(|q| ("attention.temperature_scale", Meta::F32(q.beta))));
        }
        None | Some(RopeScaling::Llama3 { .. } | RopeScaling::Factors(_)) => {}
    }
    keys
}

/// The tensors of divisors: names and values.
pub fn tensors(config: &ModelConfig) -> Vec<(&'static str, Vec<f32>)> {
    match &config.rope_scaling {
        Some(RopeScaling::Factors(factors)) => vec![(ROPE_FACTORS, factors.clone())],
        // The same as `LlamaModel.generate_extra_tensors` of llama.cpp's converter.
        Some(RopeScaling::Llama3 { .. }) => vec![(ROPE_FACTORS, config.rope_divisors())],
        Some(RopeScaling::LongRope { short_factor, long_factor, .. }) => {
            vec![(LONG_FACTORS, long_factor.clone()), (SHORT_FACTORS, short_factor.clone())]
        }
        None | Some(RopeScaling::Linear { .. } | RopeScaling::Yarn(_)) => vec![],
    }
}
