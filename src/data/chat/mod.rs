//! Chat templates: the Jinja that comes with a model, rendered as transformers' `apply_chat_template` renders it
//! (`transformers/utils/chat_template_utils.py`).
//!
//! A template is a program from a file of unknown origin, so that it has a fixed amount of fuel and access to nothing but
//! the messages.

mod conversation;
mod expressions;
mod filters;
mod marks;
mod methods;
mod operators;
mod python;
mod rewrite;
mod tokens;

use std::collections::BTreeMap;
use std::io::{self, Write};

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

pub use self::conversation::{Conversation, Turn};
pub use self::marks::RenderedChat;
use self::python::MAX_TEXT;
use crate::error::{Error, Result};

/// One message of a chat. The template decides which roles there are: system, user, assistant, …
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

/// The texts of a model's special tokens, by their names in templates: `bos_token`, `eos_token`, `pad_token`, …. Tokens
/// that a model does not have are undefined.
pub type SpecialTokens = BTreeMap<String, String>;

/// Instructions that a template may run. The longest templates in use need them for about a thousand messages.
const FUEL: u64 = 10_000_000;

/// Bytes that a template's own texts may write in total, including those written into blocks of `set`.
const MAX_WRITTEN: u64 = 8 << 30;

/// A compiled chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    /// Whether the template marks the assistant's turns with `{% generation %}`.
    pub is_marked: bool,
}

/// Name of the template in its environment.
const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// A template that does not parse, with its line.
    pub fn new(source: &str) -> Result<Self> {
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(methods::call);
        env.add_function("raise_exception", raise_exception);
        env.add_function("strftime_now", strftime_now);
        env.set_formatter(|out, _, value| match value.as_str() {
            Some(written) => python::made(written).and_then(|()| Ok(out.write_str(written)?)),
            None => Ok(out.write_str(&python::text(value)?)?),
        });
        filters::add(&mut env);
        operators::add(&mut env);
        marks::add(&mut env);
        // Jinja2's `self` holds a template's blocks, of which chat templates have none.
        env.add_global("self", Value::from(BTreeMap::<String, Value>::new()));
        python::start();
        let rewritten = rewrite::rewrite(source).map_err(template_error)?;
        env.set_fuel(Some(FUEL.min(MAX_WRITTEN / rewritten.longest_text.max(1) as u64)));
        env.add_template_owned(NAME, rewritten.source).map_err(template_error)?;
        Ok(Self { env, is_marked: rewritten.is_marked })
    }

    /// The text of a chat; `add_generation_prompt` opens the assistant's next turn.
    ///
    /// # Errors
    /// A template that calls `raise_exception`, writes more than 64 MiB or runs out of fuel, with its line.
    pub fn render(
        &self,
        messages: &[impl Serialize],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
        special_tokens: &SpecialTokens,
    ) -> Result<RenderedChat> {
        let tokens = Value::from_serialize(special_tokens);
        self.render_with(context! {
            messages, add_generation_prompt,
            tools => tools.map_or(Value::from(()), Value::from_serialize), documents => Value::from(()),
            ..tokens
        })
    }

    /// Renders the template with the variables of `context`.
    fn render_with(&self, context: Value) -> Result<RenderedChat> {
        python::start();
        let template = self.env.get_template(NAME).map_err(template_error)?;
        let mut text = RenderedText::default();
        template.render_captured_to(context, &mut text).map_err(template_error)?;
        let text = String::from_utf8_lossy(&text.0).into_owned();
        match self.is_marked {
            true => marks::split(&text),
            false => Ok(RenderedChat { text, marked: Vec::new() }),
        }
    }
}

/// The output of a template, up to [`MAX_TEXT`].
#[derive(Default)]
struct RenderedText(Vec<u8>);

impl Write for RenderedText {
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
        _ => error.detail().map_or_else(|| error.kind().to_string(), str::to_string),
    };
    Error::invalid(
        format!("chat template{line}: {what}"),
        "check that the messages are what the template expects, or give another template (data.chat_template) or, to \
         generate, the whole prompt as text, without --chat",
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

#[cfg(test)]
mod tests;
