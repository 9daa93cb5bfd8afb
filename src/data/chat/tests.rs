use super::*;

fn chat() -> Vec<Message> {
    vec![Message::new("user", "2 < 3 & \"it's\"?"), Message::new("assistant", " Yes. ")]
}

fn render(
    template: &str,
    messages: &[Message],
    add_generation_prompt: bool,
    special_tokens: &SpecialTokens,
) -> Result<String> {
    ChatTemplate::new(template)?
        .render(messages, None, add_generation_prompt, special_tokens)
        .map(|chat| chat.text)
}

fn render_with(template: &str, context: Value) -> Result<String> {
    ChatTemplate::new(template)?.render_with(context).map(|chat| chat.text)
}

fn tokens(bos: Option<&str>, eos: Option<&str>) -> SpecialTokens {
    let named = [("bos_token", bos), ("eos_token", eos)];
    named.into_iter().filter_map(|(name, token)| Some((name.into(), token?.into()))).collect()
}

fn rendered(template: &str) -> String {
    render(template, &chat(), true, &tokens(Some("<s>"), None)).unwrap()
}

fn error(template: &str) -> String {
    render(template, &chat(), true, &tokens(None, None)).unwrap_err().to_string()
}

#[derive(Deserialize)]
struct ChatCase {
    name: String,
    template: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    bos_token: Option<String>,
    eos_token: Option<String>,
    rendered: Option<String>,
    error: Option<String>,
}

#[test]
fn renders_what_transformers_renders() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/chats.json");
    let cases: Vec<ChatCase> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() >= 20, "{path} has only {} cases", cases.len());
    for case in cases {
        let got = render(
            &case.template,
            &case.messages,
            case.add_generation_prompt,
            &tokens(case.bos_token.as_deref(), case.eos_token.as_deref()),
        );
        match (got, case.rendered, case.error) {
            (Ok(got), Some(expected), None) => assert_eq!(got, expected, "{}", case.name),
            (Err(got), None, Some(expected)) => {
                assert!(got.to_string().contains(&expected), "{}: {got}", case.name);
            }
            (got, expected, _) => panic!("{}: got {got:?}, expected {expected:?}", case.name),
        }
    }
}

#[derive(Deserialize)]
struct SmallTemplates {
    context: serde_json::Value,
    cases: Vec<SmallTemplate>,
}

#[derive(Deserialize)]
struct SmallTemplate {
    template: String,
    rendered: Option<String>,
}

#[test]
fn small_templates_render_as_in_jinja2() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/templates.json");
    let fixture: SmallTemplates = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(fixture.cases.len() > 100, "{path} has only {} cases", fixture.cases.len());
    let mut wrong = Vec::new();
    for SmallTemplate { template, rendered } in &fixture.cases {
        let got = render_with(template, Value::from_serialize(&fixture.context));
        if got.as_ref().ok() != rendered.as_ref() {
            wrong.push(format!("{template}\n  expected {rendered:?}\n  got      {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), fixture.cases.len(), wrong.join("\n"));
}

/// Renders cases that scripts/checks/compare_templates.py has written and that it compares with Jinja2.
#[test]
#[ignore = "renders the cases of scripts/checks/compare_templates.py"]
fn renders_the_templates_of_a_file() {
    #[derive(Deserialize)]
    struct Cases {
        contexts: Vec<serde_json::Value>,
        templates: Vec<String>,
    }
    let Some(path) = std::env::var_os("QZO_TEMPLATES").map(std::path::PathBuf::from) else { return };
    let cases: Cases = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let rendered = |template: &str, context: &serde_json::Value| match render_with(
        template,
        Value::from_serialize(context),
    ) {
        Ok(text) => serde_json::json!({ "rendered": text }),
        Err(error) => serde_json::json!({ "error": error.to_string() }),
    };
    let rendered = |t: &str, c: &serde_json::Value| {
        std::panic::catch_unwind(|| rendered(t, c)).unwrap_or(serde_json::json!({"error": "PANIC"}))
    };
    let all = |template: &String| cases.contexts.iter().map(|c| rendered(template, c)).collect::<Vec<_>>();
    let results: Vec<_> = cases.templates.iter().map(all).collect();
    std::fs::write(path.with_extension("out"), serde_json::to_vec(&results).unwrap()).unwrap();
}

#[test]
fn block_tags_remove_their_line() {
    assert_eq!(
        rendered(
            "{% for m in messages %}\n    {% if true %}\n{{ m.role }},\n    {% endif %}\n{% endfor %}\nend\n"
        ),
        "user,\nassistant,\nend"
    );
}

#[test]
fn tojson_writes_like_python_and_escapes_nothing_for_html() {
    assert_eq!(rendered("{{ messages[0] | tojson }}"), r#"{"role": "user", "content": "2 < 3 & \"it's\"?"}"#);
    assert_eq!(
        rendered("{{ {'b': [1, 'é'], 'a': []} | tojson(indent=2) }}"),
        "{\n  \"b\": [\n    1,\n    \"é\"\n  ],\n  \"a\": []\n}"
    );
    assert_eq!(
        rendered("{{ {'b': '😀', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true) }}"),
        r#"{"a": 1, "b": "\ud83d\ude00"}"#
    );
}

#[test]
fn generation_tags_render_their_body() {
    assert_eq!(
        rendered("a {%- generation -%} b {%- endgeneration %} {{ '{% generation %}' }}"),
        "ab {% generation %}"
    );
}

#[test]
fn strftime_now_gives_the_current_year() {
    assert_eq!(rendered("{{ strftime_now('%Y') }}"), jiff::Zoned::now().year().to_string());
}

#[test]
fn an_exception_of_the_template_is_the_error() {
    let message = error("line\n{{ raise_exception('roles must alternate') }}");
    assert_eq!(message, "chat template, line 2: roles must alternate");
}

#[test]
fn a_template_that_runs_without_end_is_stopped() {
    let message = error("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}");
    assert!(message.contains("it runs for too long"), "{message}");
}

#[test]
fn a_template_that_writes_without_end_is_stopped() {
    let message = error("{% set s = 'x' * 9999999 %}{% for i in range(99999) %}{{ s }}{% endfor %}");
    assert!(message.contains("it writes more than 64 MiB"), "{message}");
}

#[test]
fn a_template_that_doubles_a_text_again_and_again_is_stopped() {
    for doubled in [
        "{% set ns.s = ns.s ~ ns.s %}",
        "{% set ns.s = ns.s + ns.s %}",
        "{% set ns.s = ns.s * 2 %}",
        "{% set ns.s = [ns.s, ns.s] | join %}",
        "{% set ns.s = ns.s | replace('x', 'xx') %}",
        "{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = s %}",
    ] {
        let message = error(&format!(
            "{{% set ns = namespace(s='xxxxxxxx') %}}{{% for i in range(40) %}}{doubled}{{% endfor %}}{{{{ ns.s }}}}"
        ));
        assert!(message.contains("it writes more than 64 MiB"), "{doubled}: {message}");
    }
    let message = error(
        "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
    );
    assert!(message.contains("too long"), "{message}");
    let message = error("{% set s = 'x' * 9999999 %}{% set t = ([s] * 9999) | map('upper') | list %}");
    assert!(message.contains("it writes more than 64 MiB"), "{message}");
}

#[test]
fn expressions_and_fields_of_excessive_length_are_refused() {
    for long in
        [format!("{}1", "-".repeat(50_000)), format!("x{}", ".x".repeat(50_000)), "not ".repeat(50_000)]
    {
        assert!(error(&format!("{{{{ {long} }}}}")).contains("more than 4000 tokens"));
    }
    for wide in ["'%1000000000d' % 1", "'{:1000000000}'.format(1)"] {
        assert!(error(&format!("{{{{ {wide} }}}}")).contains("it writes more than 64 MiB"));
    }
    let text = "x".repeat(100_000);
    let message =
        error(&format!("{{% set s %}}{{% for i in range(99999) %}}{text}{{% endfor %}}{{% endset %}}"));
    assert!(message.contains("it runs for too long"), "{message}");
}

#[test]
fn a_damaged_template_names_its_line() {
    let message = error("fine\n{% for m in messages %}");
    assert!(message.starts_with("chat template, line 2: "), "{message}");
}
