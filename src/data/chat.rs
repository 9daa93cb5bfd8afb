//! Chat templates: the Jinja that comes with a model, rendered as transformers' `apply_chat_template`
//! does (`transformers/utils/chat_template_utils.py`).
//!
//! A template is a program from a file of unknown origin: it gets a fixed amount of fuel, and no access
//! to anything but the messages.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;

use crate::error::{Error, Result};

/// One turn of a chat. Roles are the template's: system, user, assistant, …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Template instructions: about a thousand messages through the longest templates in use.
const FUEL: u64 = 2_000_000;

/// Bytes of the rendered chat: many times the longest context, in any language.
const MAX_TEXT: usize = 64 << 20;

/// The text of a chat; `add_generation_prompt` opens the assistant's next turn.
///
/// # Errors
/// A template that does not parse, calls `raise_exception`, writes more than 64 MiB or runs out of fuel; with
/// its line.
pub fn render(
    template: &str,
    messages: &[Message],
    add_generation_prompt: bool,
    bos_token: Option<&str>,
    eos_token: Option<&str>,
) -> Result<String> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_fuel(Some(FUEL));
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", tojson);

    let source = without_generation_tags(template);
    let template = env.template_from_str(&source).map_err(template_error)?;
    // transformers leaves special tokens that a model does not have undefined.
    let token = |token: Option<&str>| token.map_or(Value::UNDEFINED, Value::from);
    let mut text = Text::default();
    template
        .render_captured_to(
            context! {
                messages, add_generation_prompt,
                tools => Value::from(()), documents => Value::from(()),
                bos_token => token(bos_token), eos_token => token(eos_token),
            },
            &mut text,
        )
        .map_err(template_error)?;
    Ok(String::from_utf8_lossy(&text.0).into_owned())
}

/// What a template has written, up to [`MAX_TEXT`].
#[derive(Default)]
struct Text(Vec<u8>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn template_error(error: minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "it runs for too long".to_string(),
        ErrorKind::WriteFailure => format!("it writes more than {} MiB", MAX_TEXT >> 20),
        _ => error.detail().map_or_else(|| error.to_string(), str::to_string),
    };
    Error::invalid(
        format!("chat template{line}: {what}"),
        "check that the messages are what the template expects, or give the whole prompt as text, without --chat",
    )
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

/// Python's `json.dumps(x, ensure_ascii=False)`: ", " and ": " between items, and nothing escaped for HTML.
fn tojson(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;

    let failed =
        |e: serde_json::Error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let indent = vec![b' '; width.min(64)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
                .map_err(failed)?;
        }
        None => json
            .serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonFormatter))
            .map_err(failed)?,
    }
    let text = String::from_utf8_lossy(&out).into_owned();
    Ok(if ensure_ascii == Some(true) { escape_non_ascii(&text) } else { text })
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn escape_non_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// transformers marks the assistant's part with `{% generation %}…{% endgeneration %}`, a tag that Jinja
/// does not have; an always true `if` renders the same and keeps the tag's whitespace control.
fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + len + 2]);
        out.push_str(before);
        match tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[start + len + 2..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Vec<Message> {
        vec![Message::new("user", "2 < 3 & \"it's\"?"), Message::new("assistant", " Yes. ")]
    }

    fn rendered(template: &str) -> String {
        render(template, &chat(), true, Some("<s>"), None).unwrap()
    }

    fn error(template: &str) -> String {
        render(template, &chat(), true, None, None).unwrap_err().to_string()
    }

    #[derive(Deserialize)]
    struct Case {
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
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(cases.len() >= 20, "{path} has only {} cases", cases.len());
        for case in cases {
            let got = render(
                &case.template,
                &case.messages,
                case.add_generation_prompt,
                case.bos_token.as_deref(),
                case.eos_token.as_deref(),
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

    #[test]
    fn block_tags_take_their_line_with_them() {
        assert_eq!(
            rendered(
                "{% for m in messages %}\n    {% if true %}\n{{ m.role }},\n    {% endif %}\n{% endfor %}\nend\n"
            ),
            "user,\nassistant,\nend"
        );
    }

    #[test]
    fn tojson_writes_like_python_and_escapes_nothing_for_html() {
        assert_eq!(
            rendered("{{ messages[0] | tojson }}"),
            r#"{"role": "user", "content": "2 < 3 & \"it's\"?"}"#
        );
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
            "ab {% if true %}"
        );
    }

    #[test]
    fn strftime_now_gives_todays_year() {
        assert_eq!(rendered("{{ strftime_now('%Y') }}"), jiff::Zoned::now().year().to_string());
    }

    #[test]
    fn an_exception_of_the_template_is_the_error() {
        let message = error("line\n{{ raise_exception('roles must alternate') }}");
        assert_eq!(message, "chat template, line 2: roles must alternate");
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let message = error("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}");
        assert!(message.contains("it runs for too long"), "{message}");
    }

    #[test]
    fn a_template_that_writes_without_end_is_stopped() {
        let message = error("{% set s = 'x' * 9999999 %}{% for i in range(99999) %}{{ s }}{% endfor %}");
        assert!(message.contains("it writes more than 64 MiB"), "{message}");
    }

    #[test]
    fn a_damaged_template_names_its_line() {
        let message = error("fine\n{% for m in messages %}");
        assert!(message.starts_with("chat template, line 2: "), "{message}");
    }
}
