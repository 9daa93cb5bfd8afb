//! Chat templates and special tokens: the tokens that reach the model, seen by the length of the prompt.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Answer, Workplace, copy_tree, fixture};

/// A template that raises an error if the line end in it is not a line feed.
const PLAIN: &str = "{% if '\n' != '\\x0a' %}{{ raise_exception('a line end of its own') }}{% endif %}{% for m in messages %}\n{{ m.role }}: {{ m.content }}\n{% endfor %}\nassistant:";

/// A model that adds BOS to every text, with a chat template.
fn model(place: &Workplace, template: &str) -> PathBuf {
    let model = place.path("model");
    copy_tree(&fixture("families/mistral"), &model);
    let config = json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"});
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(model.join("chat_template.jinja"), template).unwrap();
    model
}

fn generate(template: &str, args: &[&str]) -> Answer {
    let place = Workplace::new();
    let model = model(&place, template);
    let fixed = ["generate", model.to_str().unwrap(), "--device", "cpu", "--max-new-tokens", "1"];
    place.qzo(fixed.iter().chain(args))
}

fn chat(template: &str) -> Value {
    generate(template, &["--json", "--chat", "--prompt", "Hello"]).json()
}

#[test]
fn a_template_written_on_windows_is_the_same_template() {
    let expected = chat(PLAIN);
    for line_end in ["\r\n", "\r"] {
        assert_eq!(chat(&PLAIN.replace('\n', line_end)), expected, "{line_end:?}");
    }
    // The same in the other file that can hold a template.
    let place = Workplace::new();
    let model = model(&place, "");
    std::fs::remove_file(model.join("chat_template.jinja")).unwrap();
    let template = PLAIN.replace('\n', "\r\n");
    for template in [
        json!(template),
        json!([{"name": "other", "template": "x"}, {"name": "default", "template": template}]),
    ] {
        let config = json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
        std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
        let args = [
            "generate",
            model.to_str().unwrap(),
            "--device",
            "cpu",
            "--max-new-tokens",
            "1",
            "--json",
            "--chat",
            "--prompt",
            "Hello",
        ];
        assert_eq!(place.qzo(args).json(), expected);
    }
}

#[test]
fn a_loop_over_tools_is_refused_as_in_transformers() {
    let template = "{% if tools is iterable and tools | length > 0 %}tools{% endif %}".to_string() + PLAIN;
    assert_eq!(chat(&template), chat(PLAIN));
}

#[test]
fn a_chat_has_only_the_bos_that_its_template_writes() {
    let tokens = |answer: &Value| answer["prompt_tokens"].as_u64().unwrap();
    let (without, with) =
        (chat("{{ messages[0].content }}"), chat("{{ bos_token }}{{ messages[0].content }}"));
    assert_eq!(tokens(&with), tokens(&without) + 1);
    assert_eq!(with["warnings"], json!([]));
    let plain = generate(PLAIN, &["--json", "--prompt", "Hello"]).json();
    assert_eq!((tokens(&plain), &plain["warnings"]), (tokens(&with), &json!([])));
}

#[test]
fn a_bos_in_the_text_that_the_tokenizer_adds_too_is_warned_of_once() {
    let answer = generate(PLAIN, &["--prompt", "<s>Hello"]).succeeded();
    let warnings: Vec<&str> = answer.stderr.lines().filter(|line| line.starts_with("warning:")).collect();
    assert_eq!(warnings.len(), 1, "{answer:#?}");
    assert!(warnings[0].contains("begins with <s>, and the tokenizer adds another <s>"), "{answer:#?}");

    let place = Workplace::new();
    let model = model(&place, PLAIN);
    let data = place.write("d.jsonl", "{\"q\": \"<s>a\", \"a\": \" b\"}\n{\"q\": \"<s>c\", \"a\": \" b\"}\n");
    let args = ["eval", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "--prompt", "{q}"];
    let answer = place.qzo(args.iter().chain(&["--completion", "a", "--device", "cpu", "--json"])).json();
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 1, "{answer}");
    place.write("text.txt", format!("<s>{}", "a b ".repeat(80)));
    let args = ["eval", model.to_str().unwrap(), "--perplexity", "text.txt", "--window", "8", "--json"];
    let answer = place.qzo(args.iter().chain(&["--device", "cpu"])).json();
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 1, "{answer}");
}
