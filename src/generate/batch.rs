//! The loop that continues prompts together. A text that ends leaves, and the next prompt takes its place.

use std::collections::BTreeMap;

use super::growing::GrowingText;
use super::options::{GenerateOptions, Generated};
use super::sampling::choose;
use crate::arch::ModelConfig;
use crate::data::{Load, Tokenizer};
use crate::error::{Error, Result};
use crate::model::memory::GenerationWork;
use crate::model::{LanguageModel, SPARE_ROWS, check_tokens};

/// Most tokens of prompts that are read in one forward pass, unless one prompt alone has more.
const TOKENS_PER_PASS: usize = 1024;

/// Most rows of the caches of texts that grow together, and most bytes of them, unless one text alone has more.
const CACHE_ROWS: usize = 8192;
const CACHE_BYTES: usize = 512 << 20;

/// Continues `prompt` (token ids, not empty). `on_text` is given each complete part of the text and ends the generation
/// by returning false.
///
/// # Errors
/// An empty prompt, a prompt beyond the model's context or vocabulary, and a failure of the model.
pub fn generate(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    let generated = generate_together(model, tokenizer, &[prompt], options, on_text, &mut |_| ())?;
    generated.into_iter().next().ok_or_else(|| Error::internal("a prompt without a generation"))
}

/// Continues every one of `prompts`, in their order, with the tokens that [`generate`] gives each alone. `progress` is
/// given the number of finished texts.
///
/// # Errors
/// Those of [`generate`].
pub fn generate_batch(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Generated>> {
    generate_together(model, tokenizer, prompts, options, &mut |_| true, progress)
}

fn generate_together(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> bool,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Generated>> {
    let config = model.config();
    let context = config.max_position_embeddings;
    prompts.iter().try_for_each(|prompt| check_prompt(prompt, context, config.vocab_size))?;
    if options.max_new_tokens == 0 {
        return Ok(vec![Generated::default(); prompts.len()]);
    }
    let longest = |prompt: &[u32]| rows_of(prompt.len(), options.max_new_tokens, context);
    let most_rows = most_rows(model.cached_bytes());
    let mut session = model.session(options.signs);
    let mut waiting = prompts.iter().enumerate().peekable();
    let mut growing: Vec<GrowingText<'_>> = Vec::new();
    let mut done = BTreeMap::new();
    while done.len() < prompts.len() {
        let (mut read, mut together) = (0, growing.iter().map(|text| longest(text.prompt)).sum::<usize>());
        while let Some((index, prompt)) = waiting.next_if(|(_, prompt)| {
            let fits = read + prompt.len() <= TOKENS_PER_PASS && together + longest(prompt) <= most_rows;
            fits || growing.is_empty()
        }) {
            read += prompt.len();
            together += longest(prompt);
            growing.push(GrowingText::new(index, prompt, tokenizer, options, context));
        }
        let parts: Vec<_> = growing.iter().map(|text| (text.index, text.unread.as_slice())).collect();
        let logits = session.feed(&parts)?;
        for (text, logits) in growing.iter_mut().zip(logits.chunks_exact(config.vocab_size)) {
            let token = choose(logits, options, text.tokens.len() as u32)?;
            let ends = tokenizer.eos_ids().contains(&token) || config.eos_token_ids.contains(&token);
            text.push((!ends).then_some(token), on_text)?;
        }
        for text in growing.extract_if(.., |text| text.stop.is_some()) {
            session.end(text.index);
            done.insert(text.index, text.finish());
            progress(done.len());
        }
    }
    Ok(done.into_values().collect())
}

/// Rows of the caches that a text may come to need.
fn rows_of(prompt: usize, max_new_tokens: usize, context: usize) -> usize {
    prompt.saturating_add(max_new_tokens).min(context) + SPARE_ROWS
}

/// Most rows of caches with so many bytes each: a power of two, as their buffers have.
fn most_rows(bytes: usize) -> usize {
    let fit = CACHE_ROWS.min(CACHE_BYTES / bytes.max(1)).max(1);
    1 << fit.ilog2()
}

/// The memory-relevant facts of [`generate_batch`] with prompts of these lengths, by a model that caches so many bytes for
/// each token.
pub fn generation_work(
    prompts: &[usize],
    max_new_tokens: usize,
    config: &ModelConfig,
    cached_bytes: usize,
) -> GenerationWork {
    let rows = |prompt: &usize| rows_of(*prompt, max_new_tokens, config.max_position_embeddings);
    let (all, longest) = (prompts.iter().map(rows).sum(), prompts.iter().map(rows).max().unwrap_or(0));
    let together = longest.max(most_rows(cached_bytes).min(all));
    let widest = prompts.iter().copied().max().unwrap_or(0);
    let tokens = widest.max(TOKENS_PER_PASS.min(prompts.iter().sum()));
    GenerationWork {
        cache_rows: together.next_power_of_two(),
        pass: Load { tokens, scored: prompts.len().min(together / SPARE_ROWS) },
    }
}

fn check_prompt(prompt: &[u32], context: usize, vocab_size: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::invalid("the prompt has no tokens", "give some text with --prompt"));
    }
    if prompt.len() > context {
        return Err(Error::invalid(
            format!("the prompt has {} tokens, but the model's context holds {context}", prompt.len()),
            "shorten the prompt",
        ));
    }
    check_tokens(prompt, vocab_size)
}
