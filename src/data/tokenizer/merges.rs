//! A tokenizer of GPT-2's kind from `vocab.json` and `merges.txt`, the files that come with OPT. They become the
//! `tokenizer.json` that transformers' `GPT2Converter` (convert_slow_tokenizer.py) makes of them.

use std::path::Path;

use serde_json::{Value, json};

use super::json_files::{content, convert, flag, read_json};
use crate::error::{Error, Result};

pub const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// Keys of the tokens that are found in a text before it is cut into words.
const SPECIAL: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// The `tokenizer.json`; `None` if one of the files is missing. `config` is `tokenizer_config.json`, `map`
/// `special_tokens_map.json`.
///
/// # Errors
/// A damaged file, or a tokenizer of another class, which cuts words in another way.
pub fn json(dir: &Path, config: &Value, map: &Value) -> Result<Option<Value>> {
    let (vocabulary, merges) = (dir.join(VOCABULARY), dir.join(MERGES));
    if !vocabulary.is_file() || !merges.is_file() {
        return Ok(None);
    }
    let class = config["tokenizer_class"].as_str().unwrap_or("GPT2Tokenizer");
    if class.trim_end_matches("Fast") != "GPT2Tokenizer" {
        return Err(Error::unsupported(
            format!("{}: {VOCABULARY} and {MERGES} of a {class}, without a tokenizer.json", dir.display()),
            convert(dir),
        ));
    }
    let vocab = read_json(&vocabulary)?;
    let text = std::fs::read_to_string(&merges).map_err(Error::io(&merges, "reading"))?;
    let is_pair = |(i, line): &(usize, &str)| !line.is_empty() && (*i > 0 || !line.starts_with("#version"));
    let lines = text.lines().enumerate().filter(is_pair);
    let pair = |(i, line): (usize, &str)| match line.split_once(' ') {
        Some((left, right)) => Ok(json!([left, right])),
        None => Err(Error::line(&merges, i + 1, "expected two tokens with a space between them")),
    };
    let pairs = lines.map(pair).collect::<Result<Vec<_>>>()?;
    let special = |key: &str| {
        let token = content(config.get(key).unwrap_or(&map[key]))?;
        Some((token.to_owned(), vocab.get(token)?.as_u64()?))
    };
    let mut added: Vec<(String, u64)> = SPECIAL.iter().filter_map(|key| special(key)).collect();
    added.sort_by_key(|(_, id)| *id);
    added.dedup();
    let added: Vec<Value> = added
        .into_iter()
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let byte_level = |add_prefix_space: bool, trim_offsets: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space,
               "trim_offsets": trim_offsets, "use_regex": true})
    };
    let begins = flag(config, "add_bos_token", false);
    let post_processor = match special("bos_token").filter(|_| begins) {
        Some((token, id)) => json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {&token: {"id": token, "ids": [id], "tokens": [token]}},
        }),
        None => byte_level(true, false),
    };
    Ok(Some(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level(flag(config, "add_prefix_space", false), true),
        "post_processor": post_processor,
        "decoder": byte_level(true, true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": pairs,
        },
    })))
}
