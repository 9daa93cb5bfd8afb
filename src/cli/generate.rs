use clap::Args;
use serde_json::json;

use super::{Common, open};
use crate::data::Message;
use crate::error::{Error, Result};
use crate::generate::{Options, generate};
use crate::model::Tables;

/// Continue a text, or answer a message with --chat
#[derive(Debug, Args)]
pub struct GenerateArgs {
    model: String,
    #[arg(long)]
    prompt: String,
    /// Put the prompt through the model's chat template, as the user's message
    #[arg(long)]
    chat: bool,
    /// System message of the chat
    #[arg(long, requires = "chat")]
    system: Option<String>,
    #[arg(long, default_value_t = Options::default().max_new_tokens)]
    max_new_tokens: usize,
    /// 0 takes the most likely token each time
    #[arg(long, default_value_t = Options::default().temperature)]
    temperature: f64,
    /// Sample among the likeliest tokens that together have this probability
    #[arg(long, default_value_t = Options::default().top_p)]
    top_p: f64,
}

impl GenerateArgs {
    pub fn is_sampled(&self) -> bool {
        self.temperature > 0.0
    }
}

pub fn run(args: &GenerateArgs, common: &Common) -> Result<()> {
    let temperature_ok = args.temperature >= 0.0 && args.temperature.is_finite();
    if !(temperature_ok && args.top_p > 0.0 && args.top_p <= 1.0) {
        return Err(Error::Usage(
            "--temperature must be 0 or more, --top-p above 0 and at most 1".to_string(),
        ));
    }
    if !args.is_sampled() && args.top_p < 1.0 {
        tracing::warn!("--top-p is not used: at --temperature 0 the likeliest token is taken");
    }
    let console = common.console();
    let device = open::device(common)?;
    let checkpoint = open::checkpoint(&args.model, console)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let prompt = if args.chat {
        let system = args.system.iter().map(|content| Message::new("system", content));
        let messages: Vec<_> = system.chain([Message::new("user", &args.prompt)]).collect();
        // The template writes the special tokens itself.
        tokenizer.encode(&tokenizer.render_chat(&messages, true)?, false)?
    } else {
        tokenizer.encode(&args.prompt, true)?
    };
    let model = open::model(&checkpoint, &device, common.compute_type(&device)?, Tables::InFile, console)?;
    let options = Options {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        seed: common.seed.unwrap_or_default(),
    };
    let mut stream = Ok(());
    let generated = generate(model.as_ref(), &tokenizer, &prompt, &options, &mut |text| {
        if !common.json && stream.is_ok() {
            stream = console.print(text);
        }
        stream.is_ok()
    })?;
    stream?;
    let report = json!({
        "text": generated.text,
        "tokens": generated.tokens,
        "prompt_tokens": prompt.len(),
        "stop": generated.stop,
    });
    console.result(&report, String::new)
}
