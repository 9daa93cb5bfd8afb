//! A row as text, ready to be tokenized.

use crate::data::chat::Conversation;

/// A prompt with its answers. The text of an answer follows its prompt directly.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// `gold` holds indices into `options`: more than one if several options are right.
    Classification { prompt: String, options: Vec<String>, gold: Vec<usize> },
    /// EOS follows the completion.
    Completion { prompt: String, completion: String },
    /// A conversation, which is put into the model's chat template.
    Chat(Conversation),
    /// A text that is learned as a whole, with EOS after it.
    Text(String),
    /// An answer is generated greedily up to a line end, and compared with each of `answers`.
    Generation { prompt: String, answers: Vec<String> },
}

impl Example {
    /// The prompt with its right answer, as a solved example before other prompts; `None` for chats and texts.
    pub fn solved(&self) -> Option<String> {
        match self {
            Self::Classification { prompt, options, gold } => {
                gold.first().and_then(|gold| options.get(*gold)).map(|answer| format!("{prompt}{answer}"))
            }
            Self::Completion { prompt, completion } => Some(format!("{prompt}{completion}")),
            Self::Generation { prompt, answers } => {
                answers.first().map(|answer| format!("{prompt} {answer}"))
            }
            Self::Chat(_) | Self::Text(_) => None,
        }
    }

    /// Puts solved examples before the prompt.
    pub fn after(mut self, shots: &str) -> Self {
        match &mut self {
            Self::Classification { prompt, .. }
            | Self::Completion { prompt, .. }
            | Self::Generation { prompt, .. } => {
                prompt.insert_str(0, shots);
            }
            Self::Chat(_) | Self::Text(_) => {}
        }
        self
    }
}
