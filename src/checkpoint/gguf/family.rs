//! llama.cpp's architectures, and what it does for each that no key says.

use super::header::GgufValue;
use super::keys::Keys;
use crate::arch::{Family, ModelConfig, RopeScaling, SlidingWindow};
use crate::error::{Error, Result};

/// llama.cpp's name for a family, the value of `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    pub family: Family,
    pub name: &'static str,
}

/// "llama" covers the families that differ from Llama by numbers alone, Mistral among them, and "olmo2" covers Olmo3. A
/// family is written by its first name here; the others are those of the text parts of vision-language models.
const ARCHITECTURES: [Architecture; 13] = [
    Architecture { family: Family::Llama, name: "llama" },
    Architecture { family: Family::Qwen2, name: "qwen2" },
    Architecture { family: Family::Qwen3, name: "qwen3" },
    Architecture { family: Family::Phi3, name: "phi3" },
    Architecture { family: Family::Gemma, name: "gemma" },
    Architecture { family: Family::Gemma2, name: "gemma2" },
    Architecture { family: Family::Gemma3, name: "gemma3" },
    Architecture { family: Family::Ministral3, name: "mistral3" },
    Architecture { family: Family::SmolLm3, name: "smollm3" },
    Architecture { family: Family::Granite, name: "granite" },
    Architecture { family: Family::Olmo2, name: "olmo2" },
    Architecture { family: Family::Qwen2, name: "qwen2vl" },
    Architecture { family: Family::Qwen3, name: "qwen3vl" },
];

impl Architecture {
    /// The architecture that a file names.
    ///
    /// # Errors
    /// The file names none, or one that is not supported.
    pub fn of(keys: &Keys) -> Result<Self> {
        let name = keys.need(keys.string("general.architecture")?, "general.architecture")?;
        let found = ARCHITECTURES.into_iter().find(|architecture| architecture.name == name);
        found.ok_or_else(|| {
            let works = ARCHITECTURES.map(|architecture| architecture.name).join(", ");
            keys.unsupported(format!("architecture \"{name}\""), &works)
        })
    }

    /// The architecture that a model is written as.
    ///
    /// # Errors
    /// llama.cpp has none for the family, or it is not supported.
    pub fn of_family(family: Family) -> Result<Self> {
        let same = match family {
            Family::Mistral => Family::Llama,
            Family::Olmo3 => Family::Olmo2,
            other => other,
        };
        let found = ARCHITECTURES.into_iter().find(|architecture| architecture.family == same);
        found.ok_or_else(|| {
            let works = ARCHITECTURES.map(|architecture| architecture.family.architecture()).join(", ");
            Error::unsupported(
                format!("{} cannot be written as GGUF", family.architecture()),
                format!("works: {works}; or choose another --format"),
            )
        })
    }

    /// The architecture that a model is written as.
    ///
    /// # Errors
    /// Those of [`Self::of_family`]; the model has what llama.cpp does not read for the architecture: it would refuse the
    /// file (`load_arch_tensors` of each of its models).
    pub fn of_model(config: &ModelConfig) -> Result<Self> {
        let architecture = Self::of_family(config.family)?;
        let family = architecture.family;
        let reads_all = matches!(family, Family::Llama | Family::Ministral3 | Family::Granite);
        let has_own_head = !config.tie_word_embeddings;
        let scaling = config.rope_scaling.as_ref();
        let unread = if !reads_all && config.o_bias {
            "a bias of o_proj"
        } else if !reads_all && config.mlp_bias {
            "biases of the MLP"
        } else if !reads_all && matches!(scaling, Some(RopeScaling::Llama3 { .. } | RopeScaling::Factors(_)))
        {
            "RoPE scaling of the kind llama3"
        } else if !reads_all
            && family != Family::Phi3
            && matches!(scaling, Some(RopeScaling::LongRope { .. }))
        {
            "RoPE scaling of the kind longrope"
        } else if family == Family::Olmo2 && config.tie_word_embeddings {
            "a head that is tied to the embeddings"
        } else if matches!(family, Family::Gemma | Family::Gemma2) && has_own_head {
            "a head that is not tied to the embeddings"
        } else {
            return Ok(architecture);
        };
        Err(Error::unsupported(
            format!("llama.cpp reads no {} with {unread}", config.family.architecture()),
            "choose another --format",
        ))
    }

    /// One of the architecture's own keys.
    pub fn key(self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// Whether llama.cpp computes sliding windows for it.
    pub fn has_window(self) -> bool {
        matches!(self.family, Family::Gemma2 | Family::Gemma3 | Family::Olmo2)
    }

    /// Whether rows of q and k are interleaved: see `names`.
    pub fn interleaves(self) -> bool {
        matches!(self.family, Family::Llama | Family::Ministral3 | Family::SmolLm3 | Family::Granite)
    }

    /// Whether llama.cpp reads all of YaRN's keys for it.
    pub fn has_yarn_keys(self) -> bool {
        self.family == Family::Ministral3
    }

    /// Adds to `config` the settings that llama.cpp fixes for the architecture, or reads from keys of its own.
    ///
    /// # Errors
    /// A mistyped key.
    pub fn complete(self, keys: &Keys, config: ModelConfig) -> Result<ModelConfig> {
        let (hidden, layers) = (config.hidden_size, config.num_hidden_layers);
        // The 27B models alone divide by the width that a head would have.
        let is_27b = matches!((self.family, layers), (Family::Gemma2, 46) | (Family::Gemma3, 62));
        let divided = hidden as f64 / config.num_attention_heads as f64;
        let query_pre_attn_scalar = if is_27b { divided } else { config.head_dim as f64 };
        let length = keys.count(&self.key("attention.sliding_window"))?;
        let window = |every: usize, rope_theta| -> Result<Option<SlidingWindow>> {
            let layers = self.window_layers(keys, layers, every)?;
            Ok(Some(SlidingWindow { length: length.unwrap_or(4096), layers, rope_theta }))
        };
        let cap = |key: &str, default: f64| -> Result<Option<f32>> {
            Ok(Some(keys.float(&self.key(key))?.unwrap_or(default) as f32))
        };
        Ok(match self.family {
            Family::Gemma2 => ModelConfig {
                query_pre_attn_scalar,
                attn_logit_softcapping: cap("attn_logit_softcapping", 50.0)?,
                final_logit_softcapping: cap("final_logit_softcapping", 30.0)?,
                sliding_window: window(2, None)?,
                ..config
            },
            Family::Gemma3 => {
                let local = keys.float(&self.key("rope.freq_base_swa"))?.unwrap_or(1e4);
                ModelConfig { query_pre_attn_scalar, sliding_window: window(6, Some(local))?, ..config }
            }
            // llama.cpp does not rotate in every fourth layer.
            Family::SmolLm3 => ModelConfig {
                rotated_layers: Some((1..=layers).map(|layer| layer % 4 != 0).collect()),
                ..config
            },
            Family::Granite => {
                let float = |key: &str| keys.float(&self.key(key));
                let scale = |key: &str| Ok::<_, Error>(float(key)?.unwrap_or(1.0) as f32);
                let query_pre_attn_scalar =
                    float("attention.scale")?.map_or(config.head_dim as f64, |scale| scale.powi(-2));
                ModelConfig {
                    query_pre_attn_scalar,
                    embedding_scale: scale("embedding_scale")?,
                    residual_multiplier: scale("residual_scale")?,
                    logits_scaling: scale("logit_scale")?,
                    ..config
                }
            }
            Family::Olmo2 if length.is_some() => {
                let local = keys.float(&self.key("rope.freq_base_swa"))?.unwrap_or(config.rope_theta);
                let differs = config.rope_scaling.is_some() || local != config.rope_theta;
                let sliding_window = window(4, Some(local).filter(|_| differs))?;
                ModelConfig { family: Family::Olmo3, sliding_window, ..config }
            }
            _ => config,
        })
    }

    /// Whether each layer has a sliding window: all but every `every`-th, unless a key says otherwise.
    fn window_layers(self, keys: &Keys, count: usize, every: usize) -> Result<Vec<bool>> {
        let key = self.key("attention.sliding_window_pattern");
        let every = match keys.header.values.get(&key) {
            Some(GgufValue::Array(array)) => {
                let layers = array.bools(keys.path, keys.bytes)?;
                return match layers.len() == count {
                    true => Ok(layers),
                    false => {
                        Err(Error::damaged(keys.path, format!("{key}: {} for {count} layers", layers.len())))
                    }
                };
            }
            _ => keys.count(&key)?.unwrap_or(every),
        };
        Ok((1..=count).map(|layer| every == 0 || layer % every != 0).collect())
    }
}
