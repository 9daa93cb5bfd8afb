//! A training run so small that a step takes milliseconds.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Answer, Dice, Workplace, fixture};

const WORDS: &[&str] = &[
    "It", "was", "the", "best", "of", "times", "worst", "age", "wisdom", "epoch", "belief", "season",
    "light", "darkness", "spring", "hope", "winter", "despair",
];

/// `rows` rows of `{"text", "label"}`, which depend on the seed.
pub fn rows(rows: u64, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut text = String::new();
    for _ in 0..rows {
        let words = (0..2 + dice.below(6)).map(|_| WORDS[dice.below(WORDS.len() as u64) as usize]);
        let words: Vec<&str> = words.collect();
        let row = json!({"text": words.join(" "), "label": dice.below(2)});
        text.push_str(&format!("{row}\n"));
    }
    text
}

/// A configuration and its data in a workplace of their own.
pub struct Training {
    pub place: Workplace,
}

impl Training {
    /// Trains `model`, with `extra` lines in `[train]`, by zeroth order unless they name the method.
    pub fn new(model: &Path, extra: &str) -> Self {
        let place = Workplace::new();
        let rate = if extra.contains("learning_rate") { "" } else { "learning_rate = 5e-3" };
        let method = if extra.contains("method =") { "" } else { "method = \"zo\"" };
        place.write("train.jsonl", rows(48, 1));
        place.write("dev.jsonl", rows(16, 2));
        let model = toml::Value::from(model.to_str().unwrap());
        place.write(
            "run.toml",
            format!(
                r#"model = {model}
output_dir = "run"
device = "cpu"
[data]
train = "train.jsonl"
dev = "dev.jsonl"
prompt = "{{text}} It was"
choices = [" bad", " good"]
[train]
batch_size = 4
{rate}
{method}
{extra}
"#
            ),
        );
        Self { place }
    }

    /// Trains the fastest model that needs no quantizing.
    pub fn tiny(extra: &str) -> Self {
        Self::new(&fixture("runs/q4_1.gguf"), extra)
    }

    /// The command `finetune` into `out`, with more arguments.
    pub fn command(&self, out: &str, args: &[&str]) -> Command {
        let mut command = self.place.command();
        command.args(["finetune", "--config", "run.toml", "-o", out]).args(args);
        command
    }

    pub fn finetune(&self, out: &str, args: &[&str]) -> Answer {
        Answer::of(&mut self.command(out, args))
    }

    pub fn out(&self, out: &str) -> PathBuf {
        self.place.path(out)
    }

    /// Lines of `metrics.jsonl`.
    pub fn metrics(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out(out).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
