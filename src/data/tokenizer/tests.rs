//! Ids and texts compared with those of the Python libraries (scripts/fixtures/tokenizing.py).

use std::path::PathBuf;

use super::*;
use crate::data::Message;
use crate::error::Result;

#[derive(serde::Deserialize)]
struct Fixture {
    gguf: GgufVocab,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    with_special: Vec<u32>,
    decoded: String,
    without_special: String,
}

const GGUFS: [&str; 9] =
    ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder", "llama"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers")).join(name)
}

/// The tokenizer of a fixture's GGUF vocabulary.
pub fn for_tests(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(fixture(name).gguf).unwrap()
}

fn fixture(name: &str) -> Fixture {
    serde_json::from_slice(&std::fs::read(path(&format!("{name}.json"))).unwrap()).unwrap()
}

fn from_gguf(change: impl FnOnce(&mut GgufVocab)) -> Result<Tokenizer> {
    let mut vocab = fixture("smollm").gguf;
    change(&mut vocab);
    Tokenizer::from_gguf(vocab)
}

fn refusal(change: impl FnOnce(&mut GgufVocab)) -> String {
    from_gguf(change).unwrap_err().to_string()
}

fn check(name: &str, tokenizer: &Tokenizer, cases: &[Case]) {
    assert!(cases.len() >= 50, "{name} has only {} cases", cases.len());
    for Case { text, ids, with_special, decoded, without_special } in cases {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{name}: ids of {text:?}");
        assert_eq!(
            &tokenizer.encode(text, true).unwrap(),
            with_special,
            "{name}: ids of {text:?} with special"
        );
        assert_eq!(&tokenizer.decode(ids, false).unwrap(), decoded, "{name}: text of {text:?}");
        assert_eq!(&tokenizer.decode(ids, true).unwrap(), without_special, "{name}: plain text of {text:?}");
    }
}

#[test]
fn a_gguf_vocabulary_gives_the_ids_of_the_tokenizer_it_came_from() {
    for name in GGUFS {
        let Fixture { gguf, cases } = fixture(name);
        let (n, bos, eos) = (gguf.tokens.len(), gguf.bos, gguf.eos);
        let tokenizer = Tokenizer::from_gguf(gguf).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.bos_id(), tokenizer.eos_id()), (n, bos, eos), "{name}");
        check(name, &tokenizer, &cases);
    }
}

#[derive(serde::Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[test]
fn a_hugging_face_directory_gives_the_ids_that_transformers_gives() {
    for name in ["smollm", "llama", "opt"] {
        let tokenizer = Tokenizer::from_dir(&path(name)).unwrap();
        let file = std::fs::read(path(&format!("{name}.json"))).unwrap();
        check(name, &tokenizer, &serde_json::from_slice::<Cases>(&file).unwrap().cases);
    }
    let llama = Tokenizer::from_dir(&path("llama")).unwrap();
    assert_eq!((llama.bos_id(), llama.eos_ids(), llama.chat_template()), (Some(1), &[2][..], None));
    let smollm = Tokenizer::from_dir(&path("smollm")).unwrap();
    assert_eq!(
        (smollm.bos_id(), smollm.eos_id(), smollm.token(2)),
        (Some(1), Some(2), Some("<|im_end|>".into()))
    );
    let chat = smollm.render_chat(&[Message::new("user", "Hi")], true).unwrap();
    assert!(chat.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{chat}");
    let error = llama.render_chat(&[Message::new("user", "Hi")], true).unwrap_err();
    assert_eq!(error.to_string(), "the model has no chat template");
}

#[test]
fn a_stream_gives_the_whole_text_in_complete_characters() {
    for name in GGUFS {
        let Fixture { gguf, cases } = fixture(name);
        let tokenizer = Tokenizer::from_gguf(gguf).unwrap();
        for case in &cases {
            let mut stream = tokenizer.decoder();
            let mut text = String::new();
            for &id in &case.ids {
                text += &stream.push(id).unwrap();
                assert!(!text.ends_with('\u{FFFD}'), "{name}: {text:?} of {:?}", case.text);
            }
            text += &stream.finish().unwrap();
            assert_eq!(text, case.without_special, "{name}");
        }
    }
}

#[test]
fn a_stream_after_a_prompt_keeps_the_first_words_space() {
    let tokenizer = Tokenizer::from_gguf(fixture("llama").gguf).unwrap();
    let ids = tokenizer.encode("one word and another", true).unwrap();
    let (prompt, rest) = ids.split_at(ids.len() / 2);
    let mut stream = tokenizer.decoder_after(prompt);
    let mut text: String = rest.iter().map(|&id| stream.push(id).unwrap()).collect();
    text += &stream.finish().unwrap();
    assert_eq!(tokenizer.decode(prompt, true).unwrap() + &text, "one word and another");
}

#[test]
fn an_unfinished_character_shows_at_the_end_only() {
    let tokenizer = from_gguf(|_| {}).unwrap();
    let ids = tokenizer.encode("x 😀", false).unwrap();
    let mut stream = tokenizer.decoder();
    let text: String = ids[..ids.len() - 1].iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(text.trim_end(), "x");
    assert!(stream.finish().unwrap().ends_with('\u{FFFD}'));
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn the_fingerprint_changes_with_the_tokens_of_texts() {
    let fingerprint = |change: fn(&mut GgufVocab)| from_gguf(change).unwrap().fingerprint().unwrap();
    let plain = fingerprint(|_| {});
    assert_eq!(fingerprint(|_| {}), plain);
    assert_ne!(fingerprint(|v| v.merges.swap(3, 4)), plain);
    assert_ne!(fingerprint(|v| v.add_bos = Some(true)), plain);
    assert_ne!(fingerprint(|v| v.pre = Some("gpt-2".into())), plain);
    assert_ne!(fingerprint(|v| v.eos = Some(0)), plain);
}

#[test]
fn ends_of_turns_end_a_generation_as_eos_does() {
    let tokenizer = from_gguf(|v| v.eos = Some(0)).unwrap();
    assert_eq!(tokenizer.eos_ids(), [0, 2]);
}

#[test]
fn special_tokens_surround_a_text_as_the_file_says() {
    let encode = |add_bos, add_eos| {
        let tokenizer = from_gguf(|v| (v.bos, v.add_bos, v.add_eos) = (Some(1), add_bos, add_eos)).unwrap();
        let ids = tokenizer.encode("!", true).unwrap();
        (ids.first() == Some(&1), ids.last() == Some(&2))
    };
    assert_eq!(encode(None, None), (false, false));
    assert_eq!(encode(Some(true), None), (true, false));
    assert_eq!(encode(Some(true), Some(true)), (true, true));
    assert_eq!(encode(Some(false), Some(true)), (false, true));
}

#[test]
fn an_unknown_pre_tokenizer_or_kind_is_named_with_the_known_ones() {
    let pre = refusal(|v| v.pre = Some("lama-bpe".into()));
    assert!(
        pre.starts_with(
            "the GGUF's pre-tokenizer `lama-bpe` is not known, nearest is llama-bpe; known: default, gpt-2, "
        ),
        "{pre}"
    );
    assert!(refusal(|v| v.pre = None).starts_with("the GGUF does not name its pre-tokenizer"));
    assert_eq!(
        refusal(|v| v.model = "t5".into()),
        "the GGUF's tokenizer is of kind `t5`; known: gpt2, llama"
    );
}

#[test]
fn metadata_that_contradicts_itself_is_refused() {
    let of = |what: &str| format!("the GGUF's tokenizer: {what}");
    assert_eq!(refusal(|v| v.bos = Some(9999)), of("the bos token is 9999, but there are 601 tokens"));
    assert_eq!(
        refusal(|v| v.token_types = Some(vec![1])),
        of("expected 601 token types, one per token, got 1")
    );
    assert_eq!(refusal(|v| v.tokens[5] = v.tokens[4].clone()), of("tokens 4 and 5 are both `\"`"));
    assert_eq!(
        refusal(|v| v.merges[0] = "ab".into()),
        of("the merge `ab` is not two tokens with a space between")
    );
    assert!(refusal(|v| v.merges[0] = "nothere either".into()).contains("nothere"));
    assert_eq!(
        refusal(|v| (v.model, v.merges, v.scores) = ("llama".into(), Vec::new(), None)),
        of("neither scores nor merges")
    );
}

#[test]
fn a_directory_without_tokenizer_json_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().ends_with(": no tokenizer.json"), "{error}");
    std::fs::write(dir.path().join("tokenizer.model"), b"").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(
        error.to_string().ends_with("tokenizer.model (SentencePiece) without a tokenizer.json"),
        "{error}"
    );
    assert!(error.help().unwrap().contains("save_pretrained"));
    std::fs::write(dir.path().join("tokenizer.json"), b"{\"version\": ").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json: not a tokenizer that can be read: "), "{error}");
}

#[test]
fn merges_that_are_not_pairs_and_other_classes_of_tokenizers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(path("opt").join(name), dir.path().join(name)).unwrap();
    }
    let error = || Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    Tokenizer::from_dir(dir.path()).unwrap();
    std::fs::write(dir.path().join("merges.txt"), "#version: 0.2\nĠ t\nhe\n").unwrap();
    assert!(error().ends_with("merges.txt:3: expected two tokens with a space between them"), "{}", error());
    std::fs::write(dir.path().join("merges.txt"), "Ġ nosuchtoken\n").unwrap();
    assert!(error().contains("vocab.json: not a tokenizer that can be read"), "{}", error());
    std::fs::write(dir.path().join("vocab.json"), "[]").unwrap();
    assert!(error().contains("vocab.json: expected a JSON object"), "{}", error());
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "CodeGenTokenizer"}"#)
        .unwrap();
    assert!(error().contains("vocab.json and merges.txt of a CodeGenTokenizer"), "{}", error());
}

#[test]
fn the_other_files_of_a_directory_add_to_tokenizer_json() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(path("smollm/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let config = r#"{"bos_token": null, "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
        "added_tokens_decoder": {"602": {"content": "<|b|>", "special": true}, "601": {"content": "<|a|>", "special": false}}}"#;
    put("tokenizer_config.json", config);
    put(
        "special_tokens_map.json",
        r#"{"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}"#,
    );
    put("generation_config.json", r#"{"eos_token_id": [2, 0]}"#);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (None, &[2, 0][..]));
    assert_eq!(tokenizer.encode("<|a|><|b|>", false).unwrap(), [601, 602]);
    assert_eq!(tokenizer.chat_template(), Some("d"));
    put("chat_template.jinja", "j");
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().chat_template(), Some("j"));
    put("tokenizer_config.json", "[]");
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("tokenizer_config.json: expected a JSON object, got a list of 0"), "{error}");
}

#[test]
fn flags_may_be_numbers_or_null_as_in_python() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(path("llama/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path("llama/tokenizer_config.json")).unwrap()).unwrap();
    let around = |bos: serde_json::Value, eos: serde_json::Value| {
        let mut config = config.clone();
        config["add_bos_token"] = bos;
        config["add_eos_token"] = eos;
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap().around().unwrap().map(|tokens| tokens.len())
    };
    use serde_json::json;
    assert_eq!(around(json!(true), json!(false)), [1, 0]);
    assert_eq!(around(json!(1), json!(0)), [1, 0]);
    assert_eq!(around(json!(0), json!(1)), [0, 1]);
    assert_eq!(around(json!(null), json!(null)), [0, 0]);
}
