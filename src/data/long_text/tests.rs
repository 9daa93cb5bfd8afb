use super::*;
use crate::data::GgufVocab;

const GGUFS: [&str; 9] =
    ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder", "llama"];

#[derive(serde::Deserialize)]
struct Fixture {
    gguf: GgufVocab,
}

fn tokenizer(name: &str) -> Tokenizer {
    let path = format!("{}/tests/fixtures/tokenizers/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let fixture: Fixture = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    Tokenizer::from_gguf(fixture.gguf).unwrap()
}

/// Words, numbers, code, accents, CJK and emoji, between them one of `gaps`.
fn text(bytes: usize, gaps: &[&str]) -> String {
    const WORDS: [&str; 16] = [
        "the",
        "film",
        "wasn't",
        "1984",
        "x += foo(bar);",
        "naïve",
        "größer",
        "電影",
        "很好看",
        "🎬🎞️",
        "http://a.b/c?d=e",
        "…",
        "I'll",
        "don't",
        "ZZZ",
        "\u{301}e\u{301}",
    ];
    let (mut state, mut out) = (7u64, String::new());
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    while out.len() < bytes {
        out.push_str(WORDS[next(WORDS.len())]);
        out.push_str(gaps[next(gaps.len())]);
    }
    out
}

fn whole(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.inner().encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn pieces_give_the_tokens_of_the_whole() {
    let lines: &[&str] = &[" ", " ", "  ", "\n", "\n\n", "\r\n", "\n    ", "\t", ", "];
    let one_line: &[&str] = &[" ", " ", "   ", ", "];
    let no_gaps: &[&str] = &[""];
    for name in GGUFS {
        let tokenizer = tokenizer(name);
        for gaps in [lines, one_line, no_gaps] {
            let text = text(5 * PIECE, gaps);
            let got = tokenizer.encode(&text, false).unwrap();
            assert!(got == whole(&tokenizer, &text), "{name} {gaps:?}");
        }
    }
}

#[test]
fn special_tokens_are_put_around_the_whole() {
    for name in GGUFS {
        let tokenizer = tokenizer(name);
        let text = text(3 * PIECE, &[" "]);
        let expected = tokenizer.inner().encode_fast(text.as_str(), true).unwrap().get_ids().to_vec();
        assert!(tokenizer.encode(&text, true).unwrap() == expected, "{name}");
    }
}

/// Pieces of such a text never agree, and it still ends.
#[test]
fn a_letter_without_end_is_cut_anywhere() {
    let tokenizer = tokenizer("smollm");
    let text = "a".repeat(LARGEST_PIECE + 3 * PIECE + 1);
    let tokens = tokenizer.encode(&text, false).unwrap();
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text);
}

#[test]
fn a_file_is_read_as_far_as_it_is_needed_and_without_its_mark() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    let tokenizer = tokenizer("llama-bpe");
    let text = text(20 * PIECE, &[" ", "\n"]);
    for mark in ["", "\u{feff}"] {
        std::fs::write(&path, format!("{mark}{text}")).unwrap();
        let all = tokens_of_file(&path, &tokenizer, None).unwrap();
        assert!(all == whole(&tokenizer, &text));
        let some = tokens_of_file(&path, &tokenizer, Some(1000)).unwrap();
        assert!((1000..all.len() / 4).contains(&some.len()), "{} of {}", some.len(), all.len());
        // The last ones may differ, where the text was cut.
        assert_eq!(some[..1000], all[..1000]);
    }
    for (bytes, at) in [(&b"ab\xff"[..], 2), (b"abc\xe2\x82", 3), (b"\xff", 0)] {
        std::fs::write(&path, bytes).unwrap();
        let error = tokens_of_file(&path, &tokenizer, None).unwrap_err().to_string();
        assert!(error.ends_with(&format!("text.txt: not UTF-8, from byte {at} on")), "{error}");
    }
    std::fs::write(&path, "").unwrap();
    assert_eq!(tokens_of_file(&path, &tokenizer, None).unwrap(), [0u32; 0]);
}
