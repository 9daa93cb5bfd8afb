//! How texts are generated, and what comes of it.

use crate::zo::direction::Signs;

#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    /// Divides the logits before sampling; 0 takes the most likely token each time.
    pub temperature: f64,
    /// Sampling takes the fewest tokens whose probabilities add up to this.
    pub top_p: f64,
    /// The same for every prompt.
    pub seed: u64,
    /// Texts of which the first to appear ends a generation. It is not part of the generated text.
    pub stop: Vec<String>,
    /// Displacement of the scales, of one part.
    pub signs: Signs,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
            signs: Signs::Neither,
        }
    }
}

/// A generated text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generated {
    pub text: String,
    /// The tokens of the text and of a stop string that ended it.
    pub tokens: Vec<u32>,
    pub stop: Stop,
}

/// Reason for the end of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    EndOfText,
    #[default]
    MaxNewTokens,
    ContextFull,
    StopString,
    /// `on_text` ended it.
    Cut,
}
