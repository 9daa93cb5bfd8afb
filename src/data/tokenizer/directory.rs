//! A tokenizer from a Hugging Face directory: `tokenizer.json` (or the older files that `merges` reads) with
//! `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `chat_template.jinja`.
//!
//! Follows transformers 4.57 (`PreTrainedTokenizerFast`, `LlamaTokenizerFast`), so that ids agree.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::processors::template::TemplateProcessing;

use super::failed::failed;
use super::ids::Tokenizer;
use super::json_files::{content, convert, flag, read_json, special_token};
use super::merges;
use crate::data::chat::SpecialTokens;
use crate::error::{Error, Result};

impl Tokenizer {
    /// Reads the tokenizer in `dir`.
    ///
    /// # Errors
    /// A missing or damaged file, and SentencePiece's `tokenizer.model` without a `tokenizer.json`.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let config = read_json(&dir.join("tokenizer_config.json"))?;
        let map = read_json(&dir.join("special_tokens_map.json"))?;
        let (path, bytes) = file(dir, &config, &map)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::damaged(&path, format!("not a tokenizer that can be read: {e}")))?;
        add_missing_tokens(&mut inner, &config)?;
        let bos = special_token(&config, &map, "bos_token", &inner);
        let eos = special_token(&config, &map, "eos_token", &inner);
        if let Some(processor) = llama_post_processor(&config, &bos, &eos)? {
            inner.with_post_processor(Some(processor));
        }

        let mut eos_ids: Vec<u32> = eos.iter().map(|(_, id)| *id).collect();
        for id in ids(&read_json(&dir.join("generation_config.json"))?["eos_token_id"]) {
            if !eos_ids.contains(&id) {
                eos_ids.push(id);
            }
        }
        let template = chat_template(dir, &config)?;
        Self::new(inner, bos.map(|(_, id)| id), eos_ids, template, special_tokens(&config, &map))
    }
}

/// The path and the text of `tokenizer.json`, which is made from the older files if there is none.
fn file(dir: &Path, config: &Value, map: &Value) -> Result<(PathBuf, Vec<u8>)> {
    let path = dir.join("tokenizer.json");
    if path.is_file() {
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "reading"))?;
        return Ok((path, bytes));
    }
    match merges::json(dir, config, map)? {
        Some(json) => Ok((dir.join(merges::VOCABULARY), json.to_string().into_bytes())),
        None => Err(missing(dir)),
    }
}

fn missing(dir: &Path) -> Error {
    if dir.join("tokenizer.model").is_file() {
        return Error::unsupported(
            format!("{}: tokenizer.model (SentencePiece) without a tokenizer.json", dir.display()),
            convert(dir),
        );
    }
    Error::invalid(
        format!("{}: no tokenizer.json", dir.display()),
        "copy the tokenizer's files from the model's repository into the directory",
    )
}

/// The texts of the tokens that the files name, as transformers hands them to a chat template.
fn special_tokens(config: &Value, map: &Value) -> SpecialTokens {
    let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let text = |name: &str| content(config.get(name).unwrap_or(&map[name])).map(str::to_string);
    names.into_iter().filter_map(|name| Some((name.to_string(), text(name)?))).collect()
}

/// Adds the tokens that only `tokenizer_config.json` has, in id order.
fn add_missing_tokens(tokenizer: &mut tokenizers::Tokenizer, config: &Value) -> Result<()> {
    let Some(added) = config["added_tokens_decoder"].as_object() else { return Ok(()) };
    let mut added: Vec<(u32, &Value)> =
        added.iter().filter_map(|(id, t)| Some((id.parse().ok()?, t))).collect();
    added.sort_by_key(|(id, _)| *id);
    for (id, token) in added {
        let Some(text) = content(token) else { continue };
        if tokenizer.token_to_id(text).is_some() {
            continue;
        }
        let flag = |key: &str| flag(token, key, false);
        let new = AddedToken::from(text, flag("special"))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        tokenizer.add_tokens([new]).map_err(|e| failed("adding tokens of tokenizer_config.json", &e))?;
        if tokenizer.token_to_id(text) != Some(id) {
            return Err(Error::invalid(
                format!(
                    "tokenizer_config.json: token \"{text}\" has id {id}, which does not follow the tokens before it"
                ),
                "copy tokenizer.json and tokenizer_config.json again: they do not belong together",
            ));
        }
    }
    Ok(())
}

/// The post-processor that transformers' Llama tokenizers rebuild from `add_bos_token` and `add_eos_token`, whatever
/// `tokenizer.json` says; `None` for other classes, which use that file's.
fn llama_post_processor(
    config: &Value,
    bos: &Option<(String, u32)>,
    eos: &Option<(String, u32)>,
) -> Result<Option<TemplateProcessing>> {
    let class = config["tokenizer_class"].as_str().unwrap_or_default().trim_end_matches("Fast");
    if !matches!(class, "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer") {
        return Ok(None);
    }
    let bos = bos.as_ref().filter(|_| flag(config, "add_bos_token", true));
    let eos = eos.as_ref().filter(|_| flag(config, "add_eos_token", false));
    let mut template = Vec::new();
    template.extend(bos.map(|(token, _)| format!("{token}:0")));
    template.push("$A:0".to_string());
    template.extend(eos.map(|(token, _)| format!("{token}:0")));
    TemplateProcessing::builder()
        .try_single(template)
        .and_then(|builder| {
            let tokens: Vec<(String, u32)> = bos.into_iter().chain(eos).cloned().collect();
            builder.special_tokens(tokens).build().map_err(|e| e.to_string())
        })
        .map(Some)
        .map_err(|e| Error::invalid(format!("tokenizer_config.json: {e}"), "check bos_token and eos_token"))
}

/// Token ids, which may be written as floats; a negative id stands for no token.
fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| {
        let id = v.as_f64().filter(|id| id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(id))?;
        Some(id as u32)
    };
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        single => id(single).into_iter().collect(),
    }
}

/// The default chat template. `chat_template.jinja` wins over `tokenizer_config.json`, whose template is one string or
/// a list of named ones.
fn chat_template(dir: &Path, config: &Value) -> Result<Option<String>> {
    let path = dir.join("chat_template.jinja");
    if path.is_file() {
        return std::fs::read_to_string(&path).map(Some).map_err(Error::io(&path, "reading"));
    }
    let template = match &config["chat_template"] {
        Value::Array(named) => {
            let default = named.iter().find(|t| t["name"] == "default").or(named.first());
            default.and_then(|t| t["template"].as_str())
        }
        single => single.as_str(),
    };
    Ok(template.map(str::to_string))
}
