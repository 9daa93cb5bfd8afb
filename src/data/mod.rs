//! From files to scored batches of tokens: sources, tasks, tokenizers, chat templates, batches.
//!
//! Knows no model and no device: its results are token ids, and which of them a model is asked the probability of. A
//! new format of dataset goes into `source`, a new task into `tasks`; each says how.

pub mod batch;
pub mod calibration;
pub mod candidate;
pub mod chat;
pub mod config;
pub mod files;
pub mod limits;
pub mod loss;
pub mod metrics;
pub mod row;
pub mod sampling;
pub mod source;
pub mod tasks;
pub mod text_file;
pub mod tokenized;
pub mod tokenizer;

pub use batch::{Batch, Load, Sequence, Target};
pub use candidate::{Candidate, TokenizedExample};
pub use chat::Message;
pub use config::DataConfig;
pub use files::DataFiles;
pub use limits::{LengthReport, Limits, Overlong};
pub use loss::{LossKind, LossSum, ScoredExample, Scoring};
pub use row::{Row, RowPlace};
pub use sampling::{Sampler, batch_indices, split};
pub use source::{Dataset, STDIN};
pub use tasks::{Example, RowFormat, Task, TaskConfig};
pub use text_file::tokens_of_file;
pub use tokenized::TokenizedDataset;
pub use tokenizer::{GgufVocab, StreamDecoder, Tokenizer};
