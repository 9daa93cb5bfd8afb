mod chats;

use super::*;
use crate::data::tokenizer::for_tests as tokenizer;
use crate::data::{Batch, Candidate, GgufVocab, RowFormat, TaskConfig, row};

#[derive(serde::Deserialize)]
struct Fixture {
    gguf: GgufVocab,
}

fn rows(lines: &[&str]) -> Vec<Row> {
    (1..).zip(lines).map(|(at, line)| row::for_tests(at, line)).collect()
}

fn choices(choices: &[&str]) -> Task {
    Task::new(&TaskConfig::of_choices("{text}:", choices)).unwrap()
}

fn completion(prompt: &str) -> Task {
    Task::new(&TaskConfig::of_completion(prompt, "a")).unwrap()
}

const DROP: Option<Overlong> = Some(Overlong::Drop);
const TRUNCATE: Option<Overlong> = Some(Overlong::Truncate);

const NONE: Limits = Limits { max_seq_length: None, overlong: None, max_position: 1000, vocab_size: 1000 };

fn one(lines: &[&str], task: &Task, tokenizer: &Tokenizer, limits: Limits) -> Result<TokenizedExample> {
    TokenizedDataset::new(&rows(lines), task, tokenizer, limits).map(|mut data| data.examples.remove(0))
}

/// The text that is scored after a prompt.
fn answer(candidate: &Candidate, tokenizer: &Tokenizer) -> String {
    let answer = &candidate.tokens[candidate.prompt().len()..];
    tokenizer.decode(answer, false).unwrap()
}

fn message(error: Error) -> String {
    error.to_string().strip_prefix("rows.jsonl").unwrap().to_string()
}

#[test]
fn the_tokens_that_an_option_adds_to_its_prompt_are_scored() {
    for name in ["smollm", "llama-bpe", "llama"] {
        let tokenizer = tokenizer(name);
        let task = choices(&[" a", " all the children"]);
        let example = one(&[r#"{"text": "So it was", "label": 1}"#], &task, &tokenizer, NONE).unwrap();
        let prompt = tokenizer.encode("So it was:", true).unwrap();
        for (candidate, option) in example.candidates.iter().zip([" a", " all the children"]) {
            assert_eq!(
                candidate.tokens,
                tokenizer.encode(&format!("So it was:{option}"), true).unwrap(),
                "{name}"
            );
            assert_eq!(candidate.prompt().len(), prompt.len(), "{name}");
        }
        assert_eq!(example.gold, [1]);
        assert_eq!(prompt.first() == tokenizer.bos_id().as_ref(), name != "smollm");
    }
}

#[test]
fn a_completion_ends_with_eos_once() {
    let line = [r#"{"text": "Q", "a": " the film"}"#];
    let mut plain = tokenizer("smollm");
    let example = one(&line, &completion("{text}"), &plain, NONE).unwrap();
    let prompt = plain.encode("Q", true).unwrap();
    let text = plain.encode("Q the film", true).unwrap();
    assert_eq!(example.candidates[0].tokens, [&text[..], &[2]].concat());
    assert_eq!(example.candidates[0].prompt().len(), prompt.len());

    // A tokenizer that ends every text with EOS itself gives the same.
    let path = format!("{}/tests/fixtures/tokenizers/smollm.json", env!("CARGO_MANIFEST_DIR"));
    let mut fixture: Fixture = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    fixture.gguf.add_eos = Some(true);
    plain = Tokenizer::from_gguf(fixture.gguf).unwrap();
    assert_eq!(one(&line, &completion("{text}"), &plain, NONE).unwrap(), example);
}

#[test]
fn a_generated_answer_is_learned_up_to_its_line_end() {
    let tokenizer = tokenizer("smollm");
    let task = Task::new(&TaskConfig::of_task("squad")).unwrap();
    let row = r#"{"title": "T", "context": "C", "question": "Q?", "answers": {"text": ["the film", "x"]}}"#;
    let data = TokenizedDataset::new(&rows(&[row]), &task, &tokenizer, NONE).unwrap();
    assert_eq!(answer(&data.examples[0].candidates[0], &tokenizer), " the film\n");
    assert_eq!(data.loss_kind, LossKind::Completion);
}

#[test]
fn overlong_rows_are_dropped_and_counted() {
    let tokenizer = tokenizer("smollm");
    let lines = [
        r#"{"text": "1", "label": "2"}"#,
        r#"{"text": "12345678901234567890", "label": "2"}"#,
        r#"{"text": "123", "label": "2"}"#,
    ];
    let limits = Limits { max_seq_length: Some(5), overlong: DROP, ..NONE };
    let data = TokenizedDataset::new(&rows(&lines), &choices(&["2", "3"]), &tokenizer, limits).unwrap();
    // Digits are single tokens: text, colon, choice.
    assert_eq!(data.examples.iter().map(|e| e.row).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(
        data.lengths,
        LengthReport { rows: 3, dropped: 1, longest: 22, shortest: 3, ..Default::default() }
    );

    let limits = Limits { max_seq_length: Some(2), overlong: DROP, ..NONE };
    let error = TokenizedDataset::new(&rows(&lines), &choices(&["2", "3"]), &tokenizer, limits).unwrap_err();
    assert_eq!(
        message(error),
        ": all 3 rows are longer than 2 tokens, which max_seq_length allows; the shortest has 3"
    );
}

#[test]
fn truncation_cuts_the_prompt_from_its_left_and_keeps_bos_and_the_option() {
    let tokenizer = tokenizer("llama-bpe");
    let line = [r#"{"text": "one two three four five", "label": 0}"#];
    let task = choices(&["!", "?"]);
    let whole = one(&line, &task, &tokenizer, NONE).unwrap();
    let limits = Limits { max_seq_length: Some(6), overlong: TRUNCATE, ..NONE };
    let data = TokenizedDataset::new(&rows(&line), &task, &tokenizer, limits).unwrap();
    assert_eq!(data.lengths.truncated, 1);
    for (cut, whole) in data.examples[0].candidates.iter().zip(&whole.candidates) {
        assert_eq!(cut.tokens[0], 0);
        assert_eq!(cut.tokens[1..], whole.tokens[whole.tokens.len() - 5..]);
        let answer = |candidate: &Candidate| candidate.tokens[candidate.scored[0].clone()].to_vec();
        assert_eq!(answer(cut), answer(whole));
    }
    // The row is dropped if the longest option and one token before it do not fit.
    let long = choices(&["1234567", "9"]);
    let limits = Limits { max_seq_length: Some(3), ..limits };
    assert!(TokenizedDataset::new(&rows(&line), &long, &tokenizer, limits).is_err());
}

#[test]
fn a_row_beyond_the_models_context_or_vocabulary_is_named() {
    let tokenizer = tokenizer("smollm");
    let lines = [r#"{"text": "1", "label": 2}"#, r#"{"text": "123456", "label": 2}"#];
    let task = choices(&["2", "3"]);
    let limits = Limits { max_position: 6, ..NONE };
    let error = TokenizedDataset::new(&rows(&lines), &task, &tokenizer, limits).unwrap_err();
    let message_of_length = message(error);
    assert!(
        message_of_length.starts_with(":2: 7 tokens to read, but the model's context holds 6; "),
        "{message_of_length}"
    );
    for (overlong, kept) in [(DROP, 1), (TRUNCATE, 2)] {
        let limits = Limits { max_position: 6, overlong, ..NONE };
        let data = TokenizedDataset::new(&rows(&lines), &task, &tokenizer, limits).unwrap();
        assert_eq!(data.examples.len(), kept);
        assert_eq!(data.lengths.dropped + data.lengths.truncated, 1);
        assert_eq!(
            data.examples.iter().map(|e| e.candidates[0].read()).max(),
            Some(if kept == 1 { 2 } else { 6 })
        );
    }
    TokenizedDataset::new(&rows(&lines), &task, &tokenizer, Limits { max_position: 7, ..NONE }).unwrap();
    let error = TokenizedDataset::new(&rows(&lines), &task, &tokenizer, Limits { vocab_size: 20, ..NONE })
        .unwrap_err();
    assert!(message(error).contains("is outside the model's vocabulary of 20"));
}

#[test]
fn a_candidate_without_a_token_before_it_is_refused() {
    let task = Task::new(&TaskConfig::of_choices("{text}", &["x", "y"])).unwrap();
    let line = [r#"{"text": "", "label": 0}"#];
    let error = one(&line, &task, &tokenizer("smollm"), NONE).unwrap_err();
    assert_eq!(message(error), ":1: the prompt is empty, and this tokenizer puts no BOS token before a text");
    one(&line, &task, &tokenizer("llama-bpe"), NONE).unwrap();
}

#[test]
fn a_batch_of_one_token_choices_reads_each_prompt_once() {
    let tokenizer = tokenizer("llama-bpe");
    let lines = [r#"{"text": "one two", "label": 1}"#, r#"{"text": "three", "label": 0}"#];
    let data = TokenizedDataset::new(&rows(&lines), &choices(&["!", "?"]), &tokenizer, NONE).unwrap();
    let batch = Batch::new(data.loss_kind, &data.examples);
    let prompts = [tokenizer.encode("one two:", true).unwrap(), tokenizer.encode("three:", true).unwrap()];
    assert_eq!(batch.tokens, prompts.concat());
    assert_eq!(batch.sequences.len(), 2);
    assert_eq!(batch.targets.len(), 4);
    assert!(batch.targets.iter().all(|t| batch.sequences.iter().any(|s| s.rows.end == t.row as usize + 1)));
}

/// The tokenizer of SmolLM2 has a token for " the", and one for " film".
#[test]
fn an_answer_that_shares_a_token_with_its_prompt_is_scored_from_that_token() {
    for name in ["smollm", "llama-bpe", "llama"] {
        let tokenizer = tokenizer(name);
        let (spaced, moved) = (completion("{text}: "), completion("{text}:"));
        let rows =
            [rows(&[r#"{"text": "Q", "a": "the film"}"#]), rows(&[r#"{"text": "Q", "a": " the film"}"#])];
        let at_the_end = TokenizedDataset::new(&rows[0], &spaced, &tokenizer, NONE).unwrap();
        let at_the_start = TokenizedDataset::new(&rows[1], &moved, &tokenizer, NONE).unwrap();
        assert_eq!(at_the_end.examples, at_the_start.examples, "{name}");
        assert_eq!([at_the_end.lengths.merged, at_the_start.lengths.merged], [1, 0], "{name}");
    }
}

#[test]
fn every_choice_is_scored_from_its_own_first_token() {
    let tokenizer = tokenizer("smollm");
    let task = Task::new(&TaskConfig::of_choices("{text}: ", &["the", "7"])).unwrap();
    let example = one(&[r#"{"text": "Q", "label": 0}"#], &task, &tokenizer, NONE).unwrap();
    let scored: Vec<String> = example.candidates.iter().map(|c| answer(c, &tokenizer)).collect();
    assert_eq!(scored, [" the", "7"]);
}

#[test]
fn an_answer_without_a_token_of_its_own_is_refused() {
    let tokenizer = tokenizer("smollm");
    let task = Task::new(&TaskConfig::of_choices("{text}", &["the", "x"]));
    // " " and "the" are one token, before which there is none.
    let error = one(&[r#"{"text": " ", "label": 0}"#], &task.unwrap(), &tokenizer, NONE).unwrap_err();
    assert!(message(error).contains("move the space at its end to the start of the answer"));
}

fn shaped(format: RowFormat) -> Task {
    Task::Shaped { format, is_chat: true }
}

fn smollm() -> Tokenizer {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/smollm");
    Tokenizer::from_dir(std::path::Path::new(directory)).unwrap()
}

/// The learned parts of each sequence.
fn learned(data: &TokenizedDataset, tokenizer: &Tokenizer) -> Vec<String> {
    let spans = data.examples.iter().flat_map(|example| {
        let candidate = &example.candidates[0];
        candidate.scored.iter().map(|span| tokenizer.decode(&candidate.tokens[span.clone()], false).unwrap())
    });
    spans.collect()
}

#[test]
fn rows_of_every_shape_are_learned_by_their_answers() {
    let tokenizer = smollm();
    let read = |lines: &[&str]| {
        let rows = rows(lines);
        let task = Task::of_rows(&TaskConfig::default(), &rows, &tokenizer).unwrap();
        (task.name(), learned(&TokenizedDataset::new(&rows, &task, &tokenizer, NONE).unwrap(), &tokenizer))
    };
    let one = |line: &str| read(&[line]);
    let whole = |line: &str| {
        let rows = rows(&[line]);
        let task = Task::of_rows(&TaskConfig::default(), &rows, &tokenizer).unwrap();
        let data = TokenizedDataset::new(&rows, &task, &tokenizer, NONE).unwrap();
        tokenizer.decode(&data.examples[0].candidates[0].tokens, false).unwrap()
    };
    let answers = |name, answers: &[&str]| (name, answers.iter().map(|a| a.to_string()).collect::<Vec<_>>());
    let messages = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "prompt": "a", "completion": "x"}"#;
    assert_eq!(one(messages), answers("messages", &["b<|im_end|>"]));
    let sharegpt = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
    assert_eq!(one(sharegpt), answers("conversations", &["b<|im_end|>"]));
    let alpaca = r#"{"instruction": "a", "input": null, "output": "b", "text": "a b"}"#;
    assert_eq!(one(alpaca), answers("alpaca", &["b<|im_end|>"]));
    let completion = r#"{"prompt": "Q:", "completion": " b"}"#;
    assert_eq!(one(completion), answers("prompt-completion", &[" b<|im_end|>"]));
    let chat = r#"{"prompt": "a", "completion": "b"}"#;
    assert_eq!(one(chat), answers("prompt-completion", &["b<|im_end|>"]));
    assert!(whole(chat).contains("<|im_start|>user") && !whole(completion).contains("<|im_start|>"));
    let turns = r#"{"prompt": [{"role": "assistant", "content": "no"}, {"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}"#;
    assert_eq!(one(turns), answers("prompt-completion", &["b<|im_end|>"]));
    assert_eq!(one(r#"{"question": "2 + 2", "answer": 4}"#), answers("question-answer", &["4<|im_end|>"]));
    // Names that other datasets give the same fields.
    let dolly = r#"{"instruction": "a", "context": "c", "response": "b", "category": "open_qa"}"#;
    assert_eq!(one(dolly), answers("alpaca", &["b<|im_end|>"]));
    assert!(whole(dolly).contains("a\n\nc<|im_end|>"));
    let orca = r#"{"system_prompt": "s", "question": "a", "response": "b"}"#;
    assert_eq!(one(orca), answers("question-answer", &["b<|im_end|>"]));
    assert!(whole(orca).contains("system\ns<|im_end|>"));
    assert_eq!(one(r#"{"prompt": "a", "response": "b"}"#), answers("prompt-completion", &["b<|im_end|>"]));
    let lmsys =
        r#"{"conversation": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    assert_eq!(one(lmsys), answers("conversations", &["b<|im_end|>"]));
    let texts = read(&[r#"{"text": "1 2", "id": 7}"#, r#"{"text": " "}"#]);
    assert_eq!(texts, answers("text", &[" 2<|im_end|>"]));
}

#[test]
fn instructions_become_plain_prompts_where_there_is_no_chat_template() {
    let tokenizer = tokenizer("llama-bpe");
    let decoded = |line: &str| {
        let rows = rows(&[line]);
        let task = Task::of_rows(&TaskConfig::default(), &rows, &tokenizer).unwrap();
        let data = TokenizedDataset::new(&rows, &task, &tokenizer, NONE).unwrap();
        let pieces = data.examples[0].candidates[0].pieces(&tokenizer).unwrap();
        (pieces[0].0.clone(), pieces[1].0.clone())
    };
    let (prompt, answer) = decoded(r#"{"instruction": "add", "input": "1", "output": "2"}"#);
    assert!(prompt.contains("### Instruction:\nadd\n\n### Input:\n1\n\n### Response:\n"), "{prompt}");
    assert!(answer.starts_with('2'), "{answer}");
    let (prompt, answer) = decoded(r#"{"question": "2 + 2?", "answer": "4"}"#);
    assert!(prompt.ends_with("Question: 2 + 2?\nAnswer:") && answer.starts_with(" 4"), "{prompt}{answer}");
}

#[test]
fn rows_that_need_a_prompt_ask_for_it() {
    let tokenizer = smollm();
    let refused = |line: &str| {
        let error = Task::of_rows(&TaskConfig::default(), &rows(&[line]), &tokenizer).unwrap_err();
        (message(error), error_help(line, &tokenizer))
    };
    let (what, help) = refused(r#"{"text": "a", "label": 1}"#);
    assert!(what.contains("a text and the field `label` (the number 1 here)"), "{what}");
    assert!(help.contains("--prompt \"{text} It was\" --choice"), "{help}");
    let (what, _) = refused(r#"{"sentence": "a", "label": 1, "idx": 0}"#);
    assert!(what.contains("the task sst2: give --task sst2"), "{what}");
    let (what, help) = refused(r#"{"a": "b"}"#);
    assert!(what.contains("rows with the fields a have no shape"), "{what}");
    assert!(help.contains("messages; conversations; instruction, input, output"), "{help}");
    // BoolQ's answers are truth values, MultiRC's rows have a label.
    assert!(refused(r#"{"question": "q", "answer": true, "passage": "p"}"#).1.contains("the task boolq"));
    assert!(
        refused(r#"{"paragraph": "p", "question": "q", "answer": "a", "label": 1}"#).0.contains("multirc")
    );
}

fn error_help(line: &str, tokenizer: &Tokenizer) -> String {
    let error = Task::of_rows(&TaskConfig::default(), &rows(&[line]), tokenizer).unwrap_err();
    error.help().unwrap_or_default().to_owned()
}
