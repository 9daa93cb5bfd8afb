use std::path::Path;
use std::sync::Arc;

use super::{GenerateOptions, Generated, Stop, generate, generate_batch};
use crate::checkpoint::Checkpoint;
use crate::data::Tokenizer;
use crate::device::{ComputeType, for_tests};
use crate::model::{LanguageModel, Tables, load};

fn open() -> (Box<dyn LanguageModel>, Tokenizer) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/base");
    let checkpoint = Arc::new(Checkpoint::open(&path).unwrap());
    let tokenizer = Tokenizer::from_dir(&path).unwrap();
    let device = for_tests("cpu").unwrap();
    (load(checkpoint, &device, ComputeType::F32, Tables::InFile, &mut |_, _| ()).unwrap(), tokenizer)
}

fn alone(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Generated {
    generate(model, tokenizer, prompt, options, &mut |_| true).unwrap()
}

/// More prompts than fit together, from one token to the whole context of 128.
#[test]
fn prompts_together_give_the_tokens_of_each_alone() {
    let (model, tokenizer) = open();
    let vocab = model.config().vocab_size as u32;
    let lengths = (0..90).map(|i| 1 + i * 37 % 60).chain([127, 128]);
    let prompts: Vec<Vec<u32>> = lengths
        .enumerate()
        .map(|(i, n)| (0..n).map(|t| (i as u32 * 7919 + t * 31) % vocab).collect())
        .collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for temperature in [0.0, 1.0] {
        let options = GenerateOptions { temperature, max_new_tokens: 90, seed: 4, ..Default::default() };
        let mut done = vec![];
        let together =
            generate_batch(model.as_ref(), &tokenizer, &prompts, &options, &mut |n| done.push(n)).unwrap();
        assert_eq!(done, (1..=prompts.len()).collect::<Vec<_>>());
        for (together, prompt) in together.iter().zip(&prompts) {
            assert_eq!(*together, alone(model.as_ref(), &tokenizer, prompt, &options), "{prompt:?}");
        }
        assert!(together.iter().any(|text| text.stop == Stop::MaxNewTokens && text.tokens.len() == 90));
        let last = together.last().unwrap();
        assert!(last.stop == Stop::ContextFull && last.tokens.len() == 1, "{last:?}");
    }
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let (model, tokenizer) = open();
    let options = GenerateOptions { temperature: 1.0, max_new_tokens: 60, ..Default::default() };
    let whole = alone(model.as_ref(), &tokenizer, &[5, 6, 7], &options);
    let stop: String = whole.text.chars().skip(9).take(4).collect();
    let (before, _) = whole.text.split_once(&stop).unwrap();
    let options = GenerateOptions { stop: vec!["not in the text".into(), stop.clone()], ..options };
    let mut told = String::new();
    let got = generate(model.as_ref(), &tokenizer, &[5, 6, 7], &options, &mut |text| {
        told.push_str(text);
        true
    });
    let got = got.unwrap();
    assert_eq!((got.text.as_str(), told.as_str(), got.stop), (before, before, Stop::StopString));
    assert!(whole.tokens.starts_with(&got.tokens) && got.tokens.len() < whole.tokens.len());
}

#[test]
fn no_new_tokens_give_no_text() {
    let (model, tokenizer) = open();
    let options = GenerateOptions { max_new_tokens: 0, ..Default::default() };
    assert_eq!(alone(model.as_ref(), &tokenizer, &[5], &options), Generated::default());
    assert!(generate_batch(model.as_ref(), &tokenizer, &[&[5], &[]], &options, &mut |_| ()).is_err());
}
