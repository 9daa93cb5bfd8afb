//! Generates text.

use serde::Serialize;

use super::event::OnEvent;
use super::open;
use crate::data::Message;
use crate::device::{DeviceSpec, DtypeSpec};
use crate::error::Result;
use crate::generate::{GenerateOptions, Stop, generate};
use crate::model::{Tables, compute_type};

/// A text to continue, or a message to answer.
#[derive(Debug, Clone)]
pub struct GenerateJob {
    pub model: String,
    pub prompt: String,
    /// Whether the prompt is a user's message, to be formatted with the model's chat template.
    pub chat: bool,
    /// System message of the chat.
    pub system: Option<String>,
    pub options: GenerateOptions,
    pub device: DeviceSpec,
    pub dtype: DtypeSpec,
}

/// The generated text.
#[derive(Debug, Clone, Serialize)]
pub struct GenerateReport {
    pub text: String,
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    pub stop: Stop,
}

/// Generates text. `on_text` receives each piece of text as it is generated, and returns whether to continue.
///
/// # Errors
/// The model, the prompt or the device cannot be used.
pub fn text(
    job: &GenerateJob,
    on_event: OnEvent<'_>,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<GenerateReport> {
    let device = job.device.resolve()?;
    let checkpoint = open::checkpoint(&job.model, on_event)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let prompt = if job.chat {
        let system = job.system.iter().map(|content| Message::new("system", content));
        let messages: Vec<_> = system.chain([Message::new("user", &job.prompt)]).collect();
        // The template itself adds the special tokens.
        tokenizer.encode(&tokenizer.render_chat(&messages, true)?, false)?
    } else {
        tokenizer.encode(&job.prompt, true)?
    };
    let dtype = compute_type(&device, job.dtype)?;
    let model = open::model(&checkpoint, &device, dtype, Tables::InFile, on_event)?;
    let generated = generate(model.as_ref(), &tokenizer, &prompt, &job.options, on_text)?;
    let (text, tokens, stop) = (generated.text, generated.tokens, generated.stop);
    Ok(GenerateReport { text, tokens, prompt_tokens: prompt.len(), stop })
}
