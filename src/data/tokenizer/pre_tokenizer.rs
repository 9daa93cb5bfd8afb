//! Pre-tokenizers, which cut a text into words before a byte-level BPE merges them, by their names in llama.cpp
//! (`tokenizer.ggml.pre`, `llm_tokenizer_bpe` in `src/llama-vocab.cpp`).
//!
//! A name stands for the pre-tokenizer of the models' own `tokenizer.json`. Only names whose rules are known are listed,
//! because a wrong cut gives wrong tokens without an error.

use serde_json::{Value, json};

/// GPT-2's words, which `ByteLevel(use_regex = true)` cuts, too.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Every name that `PreTokenizer::named` knows.
pub const NAMES: &[&str] = &[
    "default",
    "gpt-2",
    "phi-2",
    "jais",
    "trillion",
    "granite-docling",
    "smollm",
    "starcoder",
    "refact",
    "codeshell",
    "minerva-7b",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "dbrx",
    "smaug-bpe",
    "glm4",
    "chatglm-bpe",
    "qwen2",
    "deepseek-r1-qwen",
    "stablelm2",
    "hunyuan",
    "megrez",
    "seed-coder",
    "tekken",
    "gpt-4o",
    "llama4",
    "deepseek-coder",
    "deepseek-v3",
];

#[derive(Debug, Clone, PartialEq)]
pub struct PreTokenizer {
    /// Expressions that are applied in turn: each match becomes a word, and so does each text between matches.
    splits: Vec<&'static str>,
    /// Whether the text is first brought into Unicode's normal form C.
    pub nfc: bool,
    /// Whether a word that is a token stays whole even if no merges lead to it.
    pub ignore_merges: bool,
    /// Whether BOS goes before a text if the file does not say.
    pub add_bos: bool,
}

impl PreTokenizer {
    pub fn named(name: &str) -> Option<Self> {
        let splits = match name {
            // llama.cpp's own fallback, which belongs to no model in particular.
            "default" => vec![r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
            "gpt-2" | "phi-2" | "jais" | "trillion" | "granite-docling" => vec![GPT2],
            "smollm" | "starcoder" | "refact" | "codeshell" | "minerva-7b" => vec![r"\p{N}", GPT2],
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "midm-2.0" | "lfm2" => vec![LLAMA3],
            "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => vec![LLAMA3],
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "hunyuan" | "megrez" => vec![QWEN2],
            "seed-coder" => vec![SEED_CODER],
            "tekken" => vec![TEKKEN],
            "gpt-4o" | "llama4" => vec![GPT4O],
            "deepseek-coder" => vec![r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
            "deepseek-v3" => vec![r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
            _ => return None,
        };
        let llama3 =
            ["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "lfm2"].contains(&name);
        Some(Self {
            splits,
            nfc: name == "qwen2",
            ignore_merges: llama3 || name == "tekken",
            add_bos: llama3 || name == "tekken",
        })
    }

    /// The names that cut texts as a `pre_tokenizer` of tokenizer.json does; none if no name does.
    pub fn names_of(json: &Value) -> Vec<&'static str> {
        let Some(splits) = splits_of(json) else { return vec![] };
        let same = |name: &&str| Self::named(name).is_some_and(|pre| pre.splits == splits);
        NAMES.iter().copied().filter(same).collect()
    }

    /// The `pre_tokenizer` of a tokenizer.json. Its last step maps bytes to GPT-2's printable characters.
    pub fn json(&self) -> Value {
        let mut steps: Vec<Value> = self
            .splits
            .iter()
            .map(|regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}))
            .collect();
        steps.push(
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
        );
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// The expressions by which a byte-level pre-tokenizer cuts, in turn; `None` if it does anything else.
fn splits_of(json: &Value) -> Option<Vec<&str>> {
    let one = std::slice::from_ref(json);
    let steps = json["pretokenizers"].as_array().map_or(one, Vec::as_slice);
    let mut splits = Vec::new();
    for step in steps {
        match step["type"].as_str()? {
            "Split" => {
                // Both the matches and the texts between them must stay.
                let keeps = match step["behavior"].as_str()? {
                    "Isolated" => step["invert"] == false,
                    "Removed" => step["invert"] == true,
                    _ => false,
                };
                splits.push(step["pattern"]["Regex"].as_str().filter(|_| keeps)?);
            }
            "Digits" => splits.push(if step["individual_digits"] == true { r"\p{N}" } else { r"\p{N}+" }),
            "ByteLevel" if step["add_prefix_space"] == false => {
                splits.extend((step["use_regex"] != false).then_some(GPT2));
            }
            _ => return None,
        }
    }
    Some(splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_known_and_its_patterns_compile() {
        for name in NAMES {
            let pre = PreTokenizer::named(name).unwrap_or_else(|| panic!("{name} is listed but not known"));
            serde_json::from_value::<tokenizers::PreTokenizerWrapper>(pre.json()).unwrap();
            assert!(PreTokenizer::names_of(&pre.json()).contains(name));
        }
        assert_eq!(PreTokenizer::named("no-such-model"), None);
    }
}
