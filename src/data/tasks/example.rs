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
