//! The lengths that a run and its model allow, and how they changed a dataset.

use serde::{Deserialize, Serialize};

/// Treatment of a row that, with its longest candidate, is longer than `max_seq_length` or the model's context.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The row is left out, and counted.
    #[default]
    Drop,
    /// The prompt loses tokens from its left; the BOS token and the scored tokens stay. A chat or a text loses its end.
    Truncate,
}

/// Limits that the rows of a dataset must keep.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tokens of prompt and candidate together.
    pub max_seq_length: Option<usize>,
    /// Treatment of rows beyond `max_seq_length` or the model's context; `None` refuses them.
    pub overlong: Option<Overlong>,
    /// The model's context, in tokens.
    pub max_position: usize,
    /// Rows of the model's embedding.
    pub vocab_size: usize,
}

impl Limits {
    /// Tokens of the longest row. The model never reads a row's last token, which is only predicted.
    pub fn length(&self) -> usize {
        let context = self.max_position.saturating_add(1);
        self.max_seq_length.map_or(context, |limit| limit.min(context))
    }
}

/// Rows of a dataset by how the limits changed them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LengthReport {
    /// All rows that were read.
    pub rows: usize,
    pub dropped: usize,
    pub truncated: usize,
    /// Rows without anything to learn, such as a chat without a turn of the assistant. They are left out.
    pub unlearned: usize,
    /// Chats whose turns are sequences of their own.
    pub split: usize,
    /// Chats with an answer that the chat template writes otherwise than right after the prompt that opens it.
    pub reopened: usize,
    /// Rows in which the end of the prompt and the start of an answer are one token.
    pub merged: usize,
    /// Tokens of the longest row before truncation, with its longest candidate.
    pub longest: usize,
    /// Tokens of the shortest row before truncation, with its longest candidate.
    pub shortest: usize,
}
