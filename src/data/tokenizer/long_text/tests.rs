use super::*;
use crate::data::Tokenizer;
use crate::data::tokenizer::for_tests as tokenizer;

const GGUFS: [&str; 9] =
    ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder", "llama"];

/// A text of words, numbers, code, accents, CJK and emoji, with one of `gaps` after each.
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

/// The tokens of a text, tokenized at once.
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
fn special_tokens_surround_the_whole() {
    for name in GGUFS {
        let tokenizer = tokenizer(name);
        let text = text(3 * PIECE, &[" "]);
        let expected = tokenizer.inner().encode_fast(text.as_str(), true).unwrap().get_ids().to_vec();
        assert!(tokenizer.encode(&text, true).unwrap() == expected, "{name}");
    }
}

/// The pieces of such a text have no tokens in common.
#[test]
fn a_letter_repeated_without_end_is_cut_anywhere() {
    let tokenizer = tokenizer("smollm");
    let text = "a".repeat(LARGEST_PIECE + 3 * PIECE + 1);
    let tokens = tokenizer.encode(&text, false).unwrap();
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text);
}
