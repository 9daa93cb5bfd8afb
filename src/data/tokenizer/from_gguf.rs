//! A tokenizer rebuilt from a GGUF's `tokenizer.ggml.*` metadata, as the `tokenizer.json` it came from.
//!
//! Two kinds: `gpt2` (byte-level BPE, merges listed) and `llama` (SentencePiece BPE with byte fallback,
//! whose merges follow from the pieces' scores). Spec: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::ids::Tokenizer;
use super::pre_tokenizer::{NAMES, PreTokenizer};
use crate::data::chat::SpecialTokens;
use crate::error::{Error, Result, nearest};

/// The values of `tokenizer.ggml.*` in a GGUF file. Token ids are indices into `tokens`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct GgufVocab {
    /// `gpt2` or `llama`.
    pub model: String,
    /// Name of the pre-tokenizer, for `gpt2`.
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    /// Log-probabilities of SentencePiece, for `llama`.
    pub scores: Option<Vec<f32>>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `left right`, in rank order.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub chat_template: Option<String>,
}

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// The texts of tokens at which llama.cpp stops even where a GGUF file does not name them, whatever their type.
pub const TURN_ENDS: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

/// The texts of tokens that end a chat turn or a text if they are control tokens; files often name only one of them.
/// Longer than [`TURN_ENDS`], since a normal token of such a text (`</s>`) does not count here.
const CONTROL_ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
];

impl Tokenizer {
    /// The tokenizer that a GGUF was converted from.
    ///
    /// # Errors
    /// An unknown tokenizer model or pre-tokenizer, and metadata that contradicts itself.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self> {
        let inner = serde_json::to_vec(&vocab.tokenizer_json()?)
            .map_err(tokenizers::Error::from)
            .and_then(tokenizers::Tokenizer::from_bytes)
            .map_err(|e| contradiction(e.to_string()))?;
        let eos = ends(&vocab);
        let special_tokens = vocab.special_tokens();
        Self::new(inner, vocab.bos, eos, vocab.chat_template, special_tokens)
    }
}

impl GgufVocab {
    /// The `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn tokenizer_json(&self) -> Result<Value> {
        check(self)?;
        let (parts, add_bos) = match self.model.as_str() {
            "gpt2" => byte_level(self)?,
            "llama" => sentence_piece(self)?,
            other => {
                return Err(Error::unsupported(
                    format!("the GGUF's tokenizer is of kind `{other}`; known: gpt2, llama"),
                    "use the Hugging Face directory of the model",
                ));
            }
        };
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added_tokens(self),
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": post_processor(self, add_bos),
            "decoder": parts.decoder,
            "model": parts.model,
        }))
    }

    /// The `tokenizer_config.json` that belongs to `tokenizer_json`.
    pub fn tokenizer_config(&self) -> Value {
        let token = |id: Option<u32>| id.and_then(|id| self.tokens.get(id as usize));
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(self.bos),
            "eos_token": token(self.eos),
            "unk_token": token(self.unk),
            "pad_token": token(self.pad),
            "clean_up_tokenization_spaces": false,
            "chat_template": self.chat_template,
        })
    }

    /// The texts of the special tokens that the file names.
    fn special_tokens(&self) -> SpecialTokens {
        let named = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unk),
            ("pad_token", self.pad),
        ];
        let text = |id: Option<u32>| self.tokens.get(id? as usize);
        named.into_iter().filter_map(|(name, id)| Some((name.to_string(), text(id)?.clone()))).collect()
    }

    /// Every token that ends a generation.
    pub fn ends(&self) -> Vec<u32> {
        ends(self)
    }
}

/// The parts of a `tokenizer.json` in which the two kinds differ.
struct TokenizerParts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

/// The parts of a `gpt2` tokenizer, and whether BOS goes before a text by default.
fn byte_level(vocab: &GgufVocab) -> Result<(TokenizerParts, bool)> {
    let known = || format!("known: {}", NAMES.join(", "));
    let name = vocab.pre.as_deref().ok_or_else(|| {
        Error::unsupported(
            format!("the GGUF does not name its pre-tokenizer (tokenizer.ggml.pre); {}", known()),
            "convert the model again with a current llama.cpp, or use its Hugging Face directory",
        )
    })?;
    let pre = PreTokenizer::named(name).ok_or_else(|| {
        let hint =
            nearest(name, NAMES.iter().copied()).map(|n| format!(", nearest is {n}")).unwrap_or_default();
        Error::unsupported(
            format!("the GGUF's pre-tokenizer `{name}` is not known{hint}; {}", known()),
            "use the Hugging Face directory of the model",
        )
    })?;
    let merges = vocab.merges.iter().map(|merge| split_merge(merge)).collect::<Result<Vec<_>>>()?;
    let parts = TokenizerParts {
        normalizer: if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre.json(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: bpe(vocab, merges, json!({"ignore_merges": pre.ignore_merges})),
    };
    Ok((parts, pre.add_bos))
}

/// The parts of a `llama` tokenizer, and whether BOS goes before a text by default: as transformers' `LlamaConverter`
/// (legacy) writes them, and so the models' own `tokenizer.json`.
fn sentence_piece(vocab: &GgufVocab) -> Result<(TokenizerParts, bool)> {
    let merges = if vocab.merges.is_empty() {
        let scores =
            vocab.scores.as_deref().ok_or_else(|| contradiction("neither scores nor merges".into()))?;
        merges_from_scores(&vocab.tokens, scores)
    } else {
        vocab.merges.iter().map(|merge| split_merge(merge)).collect::<Result<Vec<_>>>()?
    };
    let space_prefix = vocab.add_space_prefix.unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unk = vocab.unk.and_then(|id| vocab.tokens.get(id as usize));
    let flags = json!({"unk_token": unk, "fuse_unk": true, "byte_fallback": true});
    let parts = TokenizerParts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: bpe(vocab, merges, flags),
    };
    Ok((parts, true))
}

fn bpe(vocab: &GgufVocab, merges: Vec<(&str, &str)>, flags: Value) -> Value {
    let ids: Map<String, Value> =
        vocab.tokens.iter().enumerate().map(|(id, token)| (name_of(id, token), id.into())).collect();
    let mut model = json!({"type": "BPE", "vocab": ids, "merges": merges});
    if let (Some(model), Value::Object(flags)) = (model.as_object_mut(), flags) {
        model.extend(flags);
    }
    model
}

/// The name of a token. An empty token cannot occur in a text; it gets the name that llama.cpp gives it.
fn name_of(id: usize, token: &str) -> String {
    if token.is_empty() { format!("[EMPTY_{id}]") } else { token.to_string() }
}

/// The two tokens of a merge. The space between them is never its first character.
fn split_merge(merge: &str) -> Result<(&str, &str)> {
    let first = merge.chars().next().map_or(0, char::len_utf8);
    merge[first..]
        .find(' ')
        .map(|at| (&merge[..first + at], &merge[first + at + 1..]))
        .ok_or_else(|| contradiction(format!("the merge `{merge}` is not two tokens with a space between")))
}

/// The merges in rank order. SentencePiece first merges the pair whose result scores highest, so that a token's score
/// ranks every way to split it into two tokens. Ties are in transformers' order: the longer left part first.
fn merges_from_scores<'v>(tokens: &'v [String], scores: &[f32]) -> Vec<(&'v str, &'v str)> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, t)| (t.as_str(), id)).collect();
    // (score, left chars, right chars, pair); the pairs of one token are in the order of their ids.
    let mut ranked = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let chars = token.chars().count();
        let mut pairs: Vec<_> = token
            .char_indices()
            .enumerate()
            .skip(1)
            .filter_map(|(left_chars, (at, _))| {
                let (left, right) = token.split_at(at);
                Some(((*ids.get(left)?, *ids.get(right)?), left_chars, (left, right)))
            })
            .collect();
        pairs.sort_by_key(|(ids, ..)| *ids);
        ranked.extend(pairs.into_iter().map(|(_, left, pair)| (*score, left, chars - left, pair)));
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    ranked.into_iter().map(|(.., pair)| pair).collect()
}

/// The tokens that are found in a text as they are written, before any merging.
fn added_tokens(vocab: &GgufVocab) -> Vec<Value> {
    let named = [vocab.bos, vocab.eos, vocab.unk, vocab.pad];
    let special = |id: usize| match &vocab.token_types {
        Some(types) => matches!(types.get(id), Some(&(CONTROL | UNKNOWN))),
        None => u32::try_from(id).is_ok_and(|id| named.contains(&Some(id))),
    };
    let user_defined =
        |id: usize| vocab.token_types.as_ref().is_some_and(|types| types.get(id) == Some(&USER_DEFINED));
    let tokens = vocab.tokens.iter().enumerate();
    tokens
        .filter(|(id, token)| !token.is_empty() && (special(*id) || user_defined(*id)))
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": special(id)})
        })
        .collect()
}

fn post_processor(vocab: &GgufVocab, add_bos: bool) -> Value {
    let token = |id: Option<u32>| id.and_then(|id| Some((id, vocab.tokens.get(id as usize)?)));
    let bos = token(vocab.bos).filter(|_| vocab.add_bos.unwrap_or(add_bos));
    let eos = token(vocab.eos).filter(|_| vocab.add_eos.unwrap_or(false));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let piece = |token: &String| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut special_tokens = Map::new();
    for (id, token) in bos.iter().chain(&eos) {
        special_tokens.insert((*token).clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    if let Some((_, token)) = bos {
        single.insert(0, piece(token));
    }
    if let Some((_, token)) = eos {
        single.push(piece(token));
    }
    let pair =
        [json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 1}})];
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens})
}

fn ends(vocab: &GgufVocab) -> Vec<u32> {
    let mut ends: Vec<u32> = vocab.eos.into_iter().collect();
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        let control =
            vocab.token_types.as_ref().is_some_and(|types| types.get(id as usize) == Some(&CONTROL));
        if control && CONTROL_ENDS.contains(&token.as_str()) && !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
}

fn check(vocab: &GgufVocab) -> Result<()> {
    let n = vocab.tokens.len();
    for (what, len) in [
        ("scores", vocab.scores.as_ref().map(Vec::len)),
        ("token types", vocab.token_types.as_ref().map(Vec::len)),
    ] {
        if let Some(len) = len.filter(|&len| len != n) {
            return Err(contradiction(format!("expected {n} {what}, one per token, got {len}")));
        }
    }
    let named = [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unk), ("padding", vocab.pad)];
    for (what, id) in named {
        if let Some(id) = id.filter(|&id| id as usize >= n) {
            return Err(contradiction(format!("the {what} token is {id}, but there are {n} tokens")));
        }
    }
    let mut seen = HashMap::with_capacity(n);
    for (id, token) in vocab.tokens.iter().enumerate() {
        if let Some(first) = seen.insert(name_of(id, token), id) {
            return Err(contradiction(format!("tokens {first} and {id} are both `{token}`")));
        }
    }
    Ok(())
}

fn contradiction(what: String) -> Error {
    Error::invalid(
        format!("the GGUF's tokenizer: {what}"),
        "the file may be damaged: fetch it again, or use the Hugging Face directory of the model",
    )
}
