//! Reads and tokenizes the rows of a run.

use super::event::{Event, OnEvent};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::data::{DataConfig, Dataset, Limits, Overlong, TokenizedDataset, Tokenizer, split};
use crate::error::{Error, Result};
use crate::train::TrainingData;

/// Reads and tokenizes the training rows, and the dev rows if there are any.
///
/// # Errors
/// The configuration names no training data; a row does not fit the task or is too long.
pub fn training_data(
    config: &Config,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    on_event: OnEvent<'_>,
) -> Result<TrainingData> {
    let task = config.data.task()?;
    let train = config.data.train.as_ref().ok_or_else(|| {
        Error::invalid(
            "the configuration names no training data",
            "set data.train, or give --data FILE.jsonl",
        )
    })?;
    let limits = training_limits(checkpoint, &config.data);
    let mut train = Dataset::read(train)?;
    let mut digest = train.digest;
    let dev = match (&config.data.dev, config.data.dev_size) {
        (Some(dev), size) => {
            if let Some(size) = size {
                tracing::warn!("dev_size = {size} is not used: dev names a file");
            }
            let dev = Dataset::read(dev)?;
            digest = *blake3::hash([digest, dev.digest].as_flattened()).as_bytes();
            Some(dev.rows)
        }
        (None, Some(size)) => {
            let (train_rows, dev_rows) = split(train.rows.len(), size, config.seed)?;
            let dev = dev_rows.iter().map(|&i| train.rows[i].clone()).collect();
            train.rows = train_rows.iter().map(|&i| train.rows[i].clone()).collect();
            Some(dev)
        }
        (None, None) => None,
    };
    let mut tokenize = |set, rows: &[_], limits| {
        let data = TokenizedDataset::new(rows, &task, tokenizer, limits)?;
        on_event(Event::Rows { set, kept: data.examples.len(), lengths: data.lengths });
        Ok::<_, Error>(data)
    };
    // Only the model's context limits dev rows, so that the results can be compared with those of `qzo eval`.
    let dev_limits = Limits { max_seq_length: None, ..limits };
    let train = tokenize("train", &train.rows, limits)?;
    let dev = dev.map(|rows| tokenize("dev", &rows, dev_limits)).transpose()?;
    Ok(TrainingData { digest, task, train, dev })
}

/// The limits of a row that follow from the model. Longer rows are refused.
pub fn model_limits(checkpoint: &Checkpoint) -> Limits {
    let config = checkpoint.config();
    let (max_position, vocab_size) = (config.max_position_embeddings, config.vocab_size);
    Limits { max_seq_length: None, overlong: None, max_position, vocab_size }
}

/// The limits of a training row that follow from the model and the `[data]` table.
pub fn training_limits(checkpoint: &Checkpoint, data: &DataConfig) -> Limits {
    let limits = model_limits(checkpoint);
    if let Some(limit) = data.max_seq_length.filter(|limit| *limit > limits.max_position + 1) {
        tracing::warn!(
            "max_seq_length = {limit} is more than the model's context of {} tokens, which is the limit",
            limits.max_position
        );
    }
    let overlong = data.overlong.or(data.max_seq_length.map(|_| Overlong::default()));
    Limits { max_seq_length: data.max_seq_length, overlong, ..limits }
}
