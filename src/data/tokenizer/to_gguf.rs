//! A Hugging Face tokenizer as GGUF's `tokenizer.ggml.*` metadata, the opposite direction of `from_gguf`.
//!
//! The vocabulary is written as llama.cpp's converter writes it. Then the result is read again and must cut a text of
//! many scripts into the same tokens. A tokenizer that the metadata cannot describe is refused.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::from_gguf::GgufVocab;
use super::ids::Tokenizer;
use super::json_files::{read_json, special_token};
use super::pre_tokenizer::PreTokenizer;
use crate::error::{Error, Result};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// A text in which tokenizers differ: runs of spaces and lines, digits, contractions, case, scripts, signs, emoji.
const SAMPLE: &str = "Hello, y'all! I'LL say we've  3 33 333 3333 things\n\n \n\t\tcamelCase UPPERCase  \r\n   \
    x = {\"a\": [1, 2.5e-3]} // ok?!... «naïve café» Привет, мир! 你好世界 こんにちは 안녕 العربية हिन्दी ไทย \
    🚀🦙 👩‍👩‍👧 ½ ① … — ''''``\"\"\" a_b_c http://x.y/z?q=1&r=2 ";

impl GgufVocab {
    /// The vocabulary of the tokenizer in `dir`, for a model that has `rows` embeddings. Rows without a token get an
    /// unused one.
    ///
    /// # Errors
    /// No tokenizer, one that is not BPE, or one that llama.cpp would apply differently.
    pub fn from_dir(dir: &Path, rows: usize) -> Result<Self> {
        let tokenizer = Tokenizer::from_dir(dir)?;
        let json = tokenizer.json()?;
        let model = &json["model"];
        if model["type"] != "BPE" {
            let kind = model["type"].as_str().unwrap_or("unknown");
            return Err(unsupported(dir, &format!("a tokenizer of kind {kind}")));
        }
        let (tokens, mut token_types) = tokens(dir, &json, rows)?;
        let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, t)| (t.as_str(), id)).collect();
        let unk = model["unk_token"].as_str().and_then(|token| ids.get(token)).map(|&id| id as u32);
        let (config, map) = (read_json(&dir.join("tokenizer_config.json"))?, Value::Null);
        let pad = special_token(&config, &map, "pad_token", tokenizer.inner()).map(|(_, id)| id);
        let (add_bos, add_eos) = added(&tokenizer)?;
        let mut vocab = Self {
            bos: tokenizer.bos_id(),
            eos: tokenizer.eos_id(),
            unk,
            pad,
            add_bos: Some(add_bos),
            add_eos: Some(add_eos),
            chat_template: tokenizer.chat_template().map(str::to_owned),
            ..Self::default()
        };
        let merges = merges(model);
        let candidates = if model["byte_fallback"] == true {
            let known = unk.and_then(|id| token_types.get_mut(id as usize));
            if let Some(kind) = known {
                *kind = UNKNOWN;
            }
            vocab.model = "llama".into();
            vocab.scores = Some(scores(&ids, &merges));
            let first = tokenizer.encode("a", false)?.first().and_then(|&id| tokenizer.token(id));
            vocab.add_space_prefix = Some(first.is_some_and(|token| token.starts_with('▁')));
            vec!["default"]
        } else {
            vocab.model = "gpt2".into();
            vocab.merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            let ignores = model["ignore_merges"] == true;
            let mut names = PreTokenizer::names_of(&json["pre_tokenizer"]);
            names.retain(|name| PreTokenizer::named(name).is_some_and(|pre| pre.ignore_merges == ignores));
            // llama.cpp normalizes nothing, so that a name with the right normal form is only tried first.
            let nfc = json["normalizer"]["type"] == "NFC";
            names.sort_by_key(|name| PreTokenizer::named(name).is_none_or(|pre| pre.nfc != nfc));
            names
        };
        (vocab.tokens, vocab.token_types) = (tokens, Some(token_types));
        for pre in candidates {
            vocab.pre = Some(pre.into());
            if same(&tokenizer, &Tokenizer::from_gguf(vocab.clone())?)? {
                return Ok(vocab);
            }
        }
        Err(unsupported(dir, "a tokenizer that cuts or merges texts in a way that llama.cpp does not know"))
    }
}

/// The tokens in the order of their ids, and the kind of each.
fn tokens(dir: &Path, json: &Value, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![UNUSED; rows];
    let mut place = |token: &str, id: &Value, kind: i32| {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < rows);
        let id = id.ok_or_else(|| {
            let what = format!("the token `{token}` is beyond the model's {rows} embeddings");
            Error::invalid(
                format!("{}: {what}", dir.display()),
                "use the tokenizer that belongs to the model",
            )
        })?;
        (tokens[id], kinds[id]) = (token.to_owned(), kind);
        Ok(())
    };
    for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
        let byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        place(token, id, if byte && json["model"]["byte_fallback"] == true { BYTE } else { NORMAL })?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
        place(added["content"].as_str().unwrap_or_default(), &added["id"], kind)?;
    }
    Ok((tokens, kinds))
}

/// The pairs of tokens that are merged, in rank order. They are written as `"left right"` or as a list of two.
fn merges(model: &Value) -> Vec<(&str, &str)> {
    let merges = model["merges"].as_array().into_iter().flatten();
    merges
        .filter_map(|merge| match merge {
            Value::String(text) => text.split_once(' '),
            pair => Some((pair[0].as_str()?, pair[1].as_str()?)),
        })
        .collect()
}

/// The score of each token: minus the rank of the first merge that gives it, because SentencePiece merges the highest
/// score first. Tokens that no merge gives come last.
fn scores(ids: &HashMap<&str, usize>, merges: &[(&str, &str)]) -> Vec<f32> {
    let mut scores = vec![f32::NAN; ids.len()];
    let mut rank = 0u32;
    for (left, right) in merges {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str())
            && let Some(score) = scores.get_mut(id)
            && score.is_nan()
        {
            *score = -(rank as f32);
            rank += 1;
        }
    }
    let last = -(rank as f32);
    scores.into_iter().map(|score| if score.is_nan() { last } else { score }).collect()
}

/// Whether BOS goes before a text, and EOS after it.
fn added(tokenizer: &Tokenizer) -> Result<(bool, bool)> {
    let (plain, whole) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
    let before = whole.len() > plain.len() && whole.first() == tokenizer.bos_id().as_ref();
    let behind =
        whole.len() > plain.len() + usize::from(before) && whole.last() == tokenizer.eos_id().as_ref();
    Ok((before, behind))
}

/// Whether two tokenizers cut some texts into the same tokens.
fn same(tokenizer: &Tokenizer, rebuilt: &Tokenizer) -> Result<bool> {
    let texts = ["a", " a", "  a b", SAMPLE];
    for (text, special) in texts.into_iter().flat_map(|text| [(text, false), (text, true)]) {
        if tokenizer.encode(text, special)? != rebuilt.encode(text, special)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unsupported(dir: &Path, what: &str) -> Error {
    Error::unsupported(
        format!("{}: {what} cannot be written as GGUF", dir.display()),
        "choose another --format, or convert the model with llama.cpp",
    )
}
