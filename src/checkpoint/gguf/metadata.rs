//! GGUF key-values → `ModelConfig` and the tokenizer's vocabulary.
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-key-value-pairs>.

use std::path::Path;

use super::family::Family;
use super::header::{Array, Header, Value};
use super::names;
use crate::arch::Activation;
use crate::arch::{MOST_LAYERS, ModelConfig, RopeScaling};
use crate::data::tokenizer::GgufVocab;
use crate::error::{Error, Result};

/// Texts of tokens that end a turn, which llama.cpp stops at where the file does not name them.
const END_OF_TURN: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

/// `rope_factors` gives the divisors that a tensor holds.
///
/// # Errors
/// Another architecture or a variant of it that is not supported; a missing, mistyped or impossible value.
pub fn config(
    path: &Path,
    bytes: &[u8],
    header: &Header,
    rope_factors: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<(ModelConfig, Family)> {
    let keys = Keys { path, bytes, header };
    if keys.string("general.type")? == Some("adapter") {
        let help = format!(
            "merge it into its base model with llama.cpp: llama-export-lora -m BASE.gguf --lora {} -o MERGED.gguf",
            path.display()
        );
        return Err(Error::unsupported(format!("{}: a LoRA adapter, not a model", path.display()), help));
    }
    let family = Family::of(&keys)?;
    let own = |key: &str| format!("{}.{key}", family.architecture());
    if keys.count(&own("expert_count"))?.is_some_and(|experts| experts > 0) {
        return Err(keys.unsupported("a mixture of experts".into(), "dense models"));
    }
    let hidden_size = keys.dimension(&own("embedding_length"))?;
    let num_attention_heads = keys.dimension(&own("attention.head_count"))?;
    let [head_dim, rotary_dim] = keys.head_widths(family, hidden_size, num_attention_heads)?;
    let num_hidden_layers = keys.dimension(&own("block_count"))?;
    if num_hidden_layers > MOST_LAYERS {
        return Err(Error::damaged(path, format!("num_hidden_layers is {num_hidden_layers}")));
    }
    let (rope_scaling, max_position_embeddings) = keys.rope(family, rope_factors)?;
    let epsilon = own("attention.layer_norm_rms_epsilon");
    let has = |name: &str| header.tensors.iter().any(|t| t.name == name);
    let config = ModelConfig {
        architecture: family.hugging_face().into(),
        vocab_size: keys.vocab_size()?,
        hidden_size,
        intermediate_size: keys.dimension(&own("feed_forward_length"))?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.count(&own("attention.head_count_kv"))?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings,
        rms_norm_eps: keys.need(keys.float(&epsilon)?, &epsilon)?,
        rope_theta: keys.float(&own("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling,
        tie_word_embeddings: !has("output.weight"),
        rotary_dim,
        block: family.block(),
        hidden_act: Activation::Silu,
        norm_offset: 0.0,
        word_embed_proj_dim: hidden_size,
        embedding_scale: 1.0,
        query_pre_attn_scalar: head_dim as f64,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        qkv_bias: has("blk.0.attn_q.bias"),
        o_bias: has("blk.0.attn_output.bias"),
        mlp_bias: has("blk.0.ffn_gate.bias"),
        qk_norm: has("blk.0.attn_q_norm.weight"),
        sliding_window: None,
        bos_token_id: keys.token("bos_token_id")?,
        eos_token_ids: keys.end_tokens()?,
    };
    let config = family.complete(&keys, config)?;
    config.check().map_err(|what| Error::damaged(path, what))?;
    Ok((config, family))
}

/// # Errors
/// No vocabulary; a list of another type or length than its tokens.
pub fn vocabulary(path: &Path, bytes: &[u8], header: &Header) -> Result<GgufVocab> {
    let keys = Keys { path, bytes, header };
    let model = keys.need(keys.string("tokenizer.ggml.model")?, "tokenizer.ggml.model")?;
    let tokens = keys.need(keys.array("tokenizer.ggml.tokens")?, "tokenizer.ggml.tokens")?;
    let per_token = |key: &str| -> Result<Option<Array>> {
        let array = keys.array(key)?;
        match array.filter(|a| a.count != tokens.count) {
            Some(other) => Err(Error::damaged(
                path,
                format!("{key}: {} entries for {} tokens", other.count, tokens.count),
            )),
            None => Ok(array),
        }
    };
    let scores = per_token("tokenizer.ggml.scores")?.map(|a| a.floats(path, bytes)).transpose()?;
    let token_types = per_token("tokenizer.ggml.token_type")?.map(|a| a.integers(path, bytes)).transpose()?;
    let merges = keys.array("tokenizer.ggml.merges")?.map(|a| a.strings(path, bytes)).transpose()?;
    Ok(GgufVocab {
        model: model.to_owned(),
        pre: keys.string("tokenizer.ggml.pre")?.map(str::to_owned),
        tokens: tokens.strings(path, bytes)?,
        scores,
        token_types,
        merges: merges.unwrap_or_default(),
        bos: keys.token("bos_token_id")?,
        eos: keys.token("eos_token_id")?,
        unk: keys.token("unknown_token_id")?,
        pad: keys.token("padding_token_id")?,
        add_bos: keys.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: keys.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: keys.bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: keys.string("tokenizer.chat_template")?.map(str::to_owned),
    })
}

/// The file's values, by type.
pub struct Keys<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    header: &'a Header,
}

impl<'a> Keys<'a> {
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&Value::Unsigned(n)) if usize::try_from(n).is_ok() => Ok(Some(n as usize)),
            Some(&Value::Signed(n)) if usize::try_from(n).is_ok() => Ok(Some(n as usize)),
            Some(Value::Array(_)) => {
                Err(self.unsupported(format!("{key} per layer"), "one value for all layers"))
            }
            Some(other) => Err(self.mistyped(key, "a count", other)),
        }
    }

    /// A count that must be there and must not be 0: it divides.
    fn dimension(&self, key: &str) -> Result<usize> {
        match self.need(self.count(key)?, key)? {
            0 => Err(Error::damaged(self.path, format!("{key} is 0"))),
            n => Ok(n),
        }
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&Value::Float(x)) => Ok(Some(x)),
            Some(other) => Err(self.mistyped(key, "a float", other)),
        }
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(self.mistyped(key, "a bool", other)),
        }
    }

    pub fn string(&self, key: &str) -> Result<Option<&'a str>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(key, "a string", other)),
        }
    }

    fn array(&self, key: &str) -> Result<Option<Array>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(&Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(self.mistyped(key, "an array", other)),
        }
    }

    /// Token ids are bounded by the vocabulary, wherever they are used as indices.
    fn token(&self, name: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        // −1, which is no token.
        const NONE: u64 = u32::MAX as u64;
        if let Some(Value::Signed(..0) | Value::Unsigned(NONE)) = self.header.values.get(&key) {
            return Ok(None);
        }
        let id = self.count(&key)?;
        let vocabulary = self.vocab_size()?;
        match id {
            Some(id) if id >= vocabulary => {
                Err(Error::damaged(self.path, format!("{key} is {id}, beyond a vocabulary of {vocabulary}")))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }

    fn end_tokens(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.token(name)?);
        }
        if let Some(tokens) = self.array("tokenizer.ggml.tokens")? {
            let tokens = tokens.strings(self.path, self.bytes)?;
            let named = tokens.iter().enumerate().filter(|(_, text)| END_OF_TURN.contains(&text.as_str()));
            ids.extend(named.map(|(id, _)| id as u32));
        }
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(ids)
    }

    /// The embedding's rows: a file's list of tokens may be shorter, never longer.
    fn vocab_size(&self) -> Result<usize> {
        let embedding = self.header.tensors.iter().find(|t| t.name == "token_embd.weight");
        let rows = self.need(embedding, "token_embd.weight")?.rows();
        match self.array("tokenizer.ggml.tokens")?.filter(|tokens| tokens.count > rows) {
            Some(tokens) => {
                Err(Error::damaged(self.path, format!("{} tokens, but {rows} embeddings", tokens.count)))
            }
            None => Ok(rows),
        }
    }

    /// Of each head: all features, and those that are rotated.
    fn head_widths(&self, family: Family, hidden_size: usize, heads: usize) -> Result<[usize; 2]> {
        let own = |key: &str| format!("{}.{key}", family.architecture());
        let head_dim = match self.count(&own("attention.key_length"))? {
            Some(length) => length,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let what = format!("embedding_length {hidden_size} is not a multiple of {heads} heads");
                return Err(Error::damaged(self.path, what));
            }
        };
        let (rotary, value) = (own("rope.dimension_count"), own("attention.value_length"));
        let rotary_dim = self.count(&rotary)?.unwrap_or(head_dim);
        let value_dim = self.count(&value)?.unwrap_or(head_dim);
        for (key, width, fixed) in [(rotary, rotary_dim, family != Family::Phi3), (value, value_dim, true)] {
            if fixed && width != head_dim {
                let works = format!("the head dimension, {head_dim}");
                return Err(self.unsupported(format!("{key} {width}"), &works));
            }
        }
        Ok([head_dim, rotary_dim])
    }

    /// The scaling, and the longest context with it.
    fn rope(
        &self,
        family: Family,
        factors: &dyn Fn(&str) -> Option<Vec<f32>>,
    ) -> Result<(Option<RopeScaling>, usize)> {
        let own = |key: &str| format!("{}.{key}", family.architecture());
        let context = self.dimension(&own("context_length"))?;
        let Some(short_factor) = factors(names::SHORT_FACTORS) else {
            return Ok((self.rope_scaling(family, factors(names::ROPE_FACTORS))?, context));
        };
        // Longer contexts than the original have other factors: see `hf::rope`.
        let original = self.count(&own("rope.scaling.original_context_length"))?.unwrap_or(context);
        let attention_factor = self.float(&own("rope.scaling.attn_factor"))?.unwrap_or(1.0) as f32;
        let long_factor = factors(names::LONG_FACTORS).unwrap_or_else(|| short_factor.clone());
        let scaling = RopeScaling::LongRope { short_factor, attention_factor, long_factor, longest: context };
        Ok((Some(scaling), context.min(original)))
    }

    fn rope_scaling(&self, family: Family, factors: Option<Vec<f32>>) -> Result<Option<RopeScaling>> {
        let own = |key: &str| format!("{}.rope.{key}", family.architecture());
        let kind = self.string(&own("scaling.type"))?;
        let factor = match self.float(&own("scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.float(&own("scale_linear"))?,
        };
        let linear = match (kind, factor) {
            (Some("none"), _) | (None | Some("linear"), None) => None,
            (None | Some("linear"), Some(factor)) => Some(RopeScaling::Linear { factor: factor as f32 }),
            (Some(other), _) => {
                return Err(
                    self.unsupported(format!("rope.scaling.type \"{other}\""), "none, linear, rope_freqs")
                );
            }
        };
        match (linear, factors) {
            (Some(_), Some(_)) => {
                Err(self.unsupported("linear rope scaling together with rope_freqs".into(), "one of them"))
            }
            (linear, factors) => Ok(linear.or(factors.map(RopeScaling::Factors))),
        }
    }

    pub fn need<T>(&self, value: Option<T>, key: &str) -> Result<T> {
        value.ok_or_else(|| Error::damaged(self.path, format!("has no {key}")))
    }

    fn mistyped(&self, key: &str, expected: &str, got: &Value) -> Error {
        Error::damaged(self.path, format!("{key}: expected {expected}, got {got:?}"))
    }

    pub fn unsupported(&self, what: String, works: &str) -> Error {
        Error::unsupported(
            format!("{}: {what} is not supported", self.path.display()),
            format!("works: {works}"),
        )
    }
}
