use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::common::Common;
use super::progress::Reporter;
use crate::app::generate::{GenerateJob, text};
use crate::error::{Error, Result};
use crate::generate::GenerateOptions;

/// Continue a text, or answer a message with --chat
#[derive(Debug, Args)]
pub struct GenerateArgs {
    model: String,
    #[arg(long)]
    prompt: String,
    /// Format the prompt as a user's message with the model's chat template
    #[arg(long)]
    chat: bool,
    /// System message of the chat
    #[arg(long, requires = "chat")]
    system: Option<String>,
    #[arg(long, default_value_t = GenerateOptions::default().max_new_tokens)]
    max_new_tokens: usize,
    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long, default_value_t = GenerateOptions::default().temperature)]
    temperature: f64,
    /// Sample from the most likely tokens that together have this probability
    #[arg(long, default_value_t = GenerateOptions::default().top_p)]
    top_p: f64,
    /// Text that ends the generation and is not printed; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    stop: Vec<String>,
}

impl GenerateArgs {
    /// Whether tokens are sampled, so that the seed matters.
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
        tracing::warn!("--top-p is not used: --temperature 0 always takes the most likely token");
    }
    let job = GenerateJob {
        model: args.model.clone(),
        prompt: args.prompt.clone(),
        chat: args.chat,
        system: args.system.clone(),
        options: GenerateOptions {
            max_new_tokens: args.max_new_tokens,
            temperature: args.temperature,
            top_p: args.top_p,
            seed: common.seed(),
            stop: args.stop.clone(),
            ..GenerateOptions::default()
        },
        device: common.device(),
        dtype: common.dtype(),
    };
    let console = common.console();
    let mut printed = Ok(());
    let on_text = &mut |text: &str| {
        if !common.json && printed.is_ok() {
            printed = console.print(text);
        }
        printed.is_ok()
    };
    let report = Reporter::new(console).through(|on_event| text(&job, on_event, on_text))?;
    printed?;
    console.result(&report, String::new)
}
