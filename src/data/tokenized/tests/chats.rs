//! Conversations: which of their tokens are learned.

use super::*;

#[derive(serde::Deserialize)]
struct MaskCase {
    name: String,
    template: String,
    row: serde_json::Value,
    sequences: Vec<MaskedSequence>,
}

#[derive(serde::Deserialize, Debug, PartialEq)]
struct MaskedSequence {
    ids: Vec<u32>,
    mask: Vec<u8>,
}

#[test]
fn the_assistants_turns_are_scored_and_nothing_else() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/chat_masks.json");
    let cases: Vec<MaskCase> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() >= 10);
    for MaskCase { name, template, row, sequences } in cases {
        let mut tokenizer = smollm();
        tokenizer.set_chat_template(template);
        let rows = rows(&[&row.to_string()]);
        let data = TokenizedDataset::new(&rows, &shaped(RowFormat::Messages), &tokenizer, NONE).unwrap();
        let masked = data.examples.iter().map(|example| {
            let [candidate] = example.candidates.as_slice() else { panic!("{name}: one candidate") };
            let is_scored = |at: &usize| candidate.scored.iter().any(|span| span.contains(at));
            let mask = (0..candidate.tokens.len()).map(|at| u8::from(is_scored(&at))).collect();
            MaskedSequence { ids: candidate.tokens.clone(), mask }
        });
        assert_eq!(masked.collect::<Vec<_>>(), sequences, "{name}");
        assert_eq!(data.lengths.split, usize::from(sequences.len() > 1), "{name}");
    }
}

#[test]
fn long_chats_lose_their_end_and_chats_without_an_answer_are_left_out() {
    let tokenizer = smollm();
    let lines = [
        r#"{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1234567890"}]}"#,
        r#"{"messages": [{"role": "user", "content": "1"}]}"#,
        r#"{"messages": [{"role": "user", "content": "123456789012345678901234567890"}, {"role": "assistant", "content": "1"}]}"#,
    ];
    let task = shaped(RowFormat::Messages);
    let whole = TokenizedDataset::new(&rows(&lines), &task, &tokenizer, NONE).unwrap();
    assert_eq!((whole.examples.len(), whole.lengths.unlearned), (2, 1));
    let limit = whole.examples[0].candidates[0].tokens.len() - 5;
    let limits = Limits { max_seq_length: Some(limit), overlong: TRUNCATE, ..NONE };
    let cut = TokenizedDataset::new(&rows(&lines), &task, &tokenizer, limits).unwrap();
    assert_eq!(learned(&cut, &tokenizer), ["1234567"]);
    assert_eq!((cut.lengths.truncated, cut.lengths.dropped, cut.lengths.unlearned), (1, 1, 1));
    let none = TokenizedDataset::new(&rows(&lines[1..2]), &task, &tokenizer, NONE).unwrap_err();
    assert!(message(none).contains("no row has anything to learn"));
}

#[test]
fn an_answer_is_learned_from_where_it_leaves_the_prompt_that_opens_it() {
    let chat = |opening: &str, answer: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.role == 'user' %}}<|im_start|>user\n{{{{ m.content }}}}<|im_end|>\n\
             {{% else %}}{answer}<|im_end|>\n{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
        )
    };
    let plain = "<|im_start|>assistant\n{{ m.content }}";
    let closed = "<|im_start|>assistant\n</think>{{ m.content }}";
    let cases = [
        // Thoughts that the prompt opens or leaves empty, and the answer does not have or has.
        (chat("<|im_start|>assistant\n<think>\n", plain), "b", "b<|im_end|>", 1),
        (
            chat("<|im_start|>assistant\n<think>\n\n</think>\n", plain),
            "<think>\nx",
            "<think>\nx<|im_end|>",
            1,
        ),
        // Both have `<`, which is a token of its own in this vocabulary.
        (chat("<|im_start|>assistant\n<think>", closed), "b", "/think>b<|im_end|>", 1),
        // What prompt and answer share by chance is the answer's; a turn may have no header.
        (chat("<|im_start|>assistant\nHere:", plain), "Hello", "Hello<|im_end|>", 1),
        (chat("<think>", "{{ m.content }}"), "b", "b<|im_end|>", 1),
        (chat("<|im_start|>assistant\n", plain), "b", "b<|im_end|>", 0),
    ];
    for (template, answer, expected, reopened) in cases {
        let mut tokenizer = smollm();
        tokenizer.set_chat_template(template.clone());
        let user = serde_json::json!({"role": "user", "content": "a"});
        let assistant = serde_json::json!({"role": "assistant", "content": answer});
        let row = serde_json::json!({"messages": [user, assistant, user, assistant]}).to_string();
        let data =
            TokenizedDataset::new(&rows(&[&row]), &shaped(RowFormat::Messages), &tokenizer, NONE).unwrap();
        assert_eq!(learned(&data, &tokenizer), [expected, expected], "{template}");
        assert_eq!((data.examples.len(), data.lengths.reopened), (1, reopened), "{template}");
    }
}

#[test]
fn a_turn_follows_the_prompt_that_a_server_gives_the_model() {
    // Mistral's writes the system text before the last message, if that is the user's.
    let moves_system = "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last %}{{ messages[0].content }} {% endif %}\
                        {{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}";
    let mut tokenizer = smollm();
    tokenizer.set_chat_template(moves_system.into());
    let row = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                               {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    let data = TokenizedDataset::new(&rows(&[row]), &shaped(RowFormat::Messages), &tokenizer, NONE).unwrap();
    assert_eq!(learned(&data, &tokenizer), [" b</s>", " d</s>"]);
    let text = |i: usize| tokenizer.decode(&data.examples[i].candidates[0].tokens, false).unwrap();
    assert_eq!(
        [text(0), text(1)],
        ["[INST] s a[/INST] b</s>", "[INST] a[/INST] b</s>[INST] s c[/INST] d</s>"]
    );
    assert_eq!((data.lengths.split, data.lengths.reopened), (1, 1));
}

#[test]
fn a_template_that_writes_the_prompt_differently_with_the_answer_is_refused() {
    // A judge's template asks about the last message.
    let judges = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}Is the last {{ messages[-1].role }} right?";
    // The header of the turn is none of what its prompt has.
    let other_header = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<think>{% endif %}";
    let row = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    for (template, differs) in [(judges, "user right?"), (other_header, "\"<think>\"")] {
        let mut tokenizer = smollm();
        tokenizer.set_chat_template(template.into());
        let error =
            TokenizedDataset::new(&rows(&[row]), &shaped(RowFormat::Messages), &tokenizer, NONE).unwrap_err();
        assert!(error.help().unwrap().contains("{% generation %}"));
        let what = message(error);
        assert!(what.contains(":1: the chat template opens message 3") && what.contains(differs), "{what}");
    }
}
