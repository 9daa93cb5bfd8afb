//! From text to scored token batches: tokenizer, chat template, datasets, tasks, batches.
//!
//! Knows no model and no device: what leaves this room is token ids, and which of them a model is
//! asked the probability of. To add a task: one arm per `match` in `tasks`, one row in its tests.

pub mod batch;
pub mod calibration;
pub mod chat;
pub mod config;
pub mod dataset;
mod label;
pub mod long_text;
pub mod metrics;
pub mod prompt;
pub mod sampling;
pub mod tasks;
pub mod tokenized;
pub mod tokenizer;

pub use batch::{Batch, Load, LossSum, Objective, Scoring, Sequence, Target};
pub use chat::Message;
pub use config::{DataConfig, Overlong};
pub use dataset::{Dataset, Row};
pub use long_text::tokens_of_file;
pub use sampling::{Sampler, batch_indices, split};
pub use tasks::{Example, Task};
pub use tokenized::{LengthReport, Limits, TokenizedDataset};
pub use tokenizer::{GgufVocab, StreamDecoder, Tokenizer};
