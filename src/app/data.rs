//! Reads and tokenizes the rows of a run.

use std::path::Path;

use super::event::{Event, OnEvent};
use super::open;
use crate::checkpoint::{Checkpoint, Format};
use crate::config::{Config, OpenValues};
use crate::data::tasks::Builtin;
use crate::data::{
    DataConfig, DataFiles, Dataset, Limits, Overlong, Row, TokenizedDataset, Tokenizer, split,
};
use crate::error::{Error, Result};
use crate::quant::QuantizeConfig;
use crate::train::{ObjectiveKind, TrainingData};

/// Most rows that are set aside for evaluation where the configuration leaves it open.
const MOST_DEV_ROWS: usize = 500;

/// Least and most steps of a run whose length is left open, and how often it goes through its rows in between.
const OPEN_STEPS: [u64; 2] = [60, 500];
const OPEN_EPOCHS: f64 = 2.0;

/// Values of a quantization that is left open.
const OPEN_GROUP_SIZE: i64 = 64;

/// Rows of a task's own dataset to train on, to evaluate on while training, and to test on, as MeZO and QZO take them.
const TASK_TRAIN_ROWS: usize = 1000;
const TASK_DEV_ROWS: usize = 500;
pub const TASK_TEST_ROWS: usize = 1000;

/// Rows as they were read.
struct ReadRows {
    digest: [u8; 32],
    /// The first row of the training files, whose fields say what shape they have.
    first: Row,
    train: Vec<Row>,
    dev: Option<Vec<Row>>,
}

/// Reads and tokenizes the training rows, and the dev rows if there are any. The values that the configuration leaves open
/// are then chosen.
///
/// # Errors
/// The configuration names no training data; a row does not fit the task or is too long.
pub fn training_data(
    config: &mut Config,
    checkpoint: &Checkpoint,
    tokenizer: &mut Tokenizer,
    on_event: OnEvent<'_>,
) -> Result<TrainingData> {
    config.data.set_chat_template(tokenizer)?;
    let ReadRows { mut digest, first, train, dev } = read(config, on_event)?;
    let task = config.data.task(std::slice::from_ref(&first), tokenizer)?;
    config.train.check_task(&task)?;
    let limits = training_limits(checkpoint, &config.data);
    let mut tokenize = |set, rows: &[_], limits| {
        let progress = &mut |done| on_event(Event::Progress { work: "tokenizing", done, of: rows.len() });
        let data = TokenizedDataset::after_shots(rows, &task, "", tokenizer, limits, progress)?;
        on_event(Event::Rows { set, kept: data.examples.len(), lengths: data.lengths });
        Ok::<_, Error>(data)
    };
    // Only the model's context limits dev rows with answers, so that the results can be compared with those of `qzo eval`.
    let is_shaped = task.is_shaped();
    let dev_limits = if is_shaped { limits } else { Limits { max_seq_length: None, ..limits } };
    let (train_rows, dev_rows) = (train, dev);
    let train = tokenize("train", &train_rows, limits)?;
    let dev = dev_rows.as_ref().map(|rows| tokenize("dev", rows, dev_limits)).transpose()?;
    let dev_rows = dev_rows.unwrap_or_default();
    choose_rest(config, checkpoint, train.examples.len());
    if is_shaped && let Some(template) = tokenizer.chat_template() {
        // The template decides which tokens there are.
        let template = *blake3::hash(template.as_bytes()).as_bytes();
        digest = *blake3::hash([digest, template].as_flattened()).as_bytes();
    }
    let shown = train.examples.first().and_then(|example| example.candidates.get(*example.gold.first()?));
    if let Some(candidate) = shown {
        on_event(Event::Example(candidate.pieces(tokenizer)?));
    }
    let is_scored = config.train.objective != ObjectiveKind::Loss;
    let (train_rows, dev_rows) = if is_scored { (train_rows, dev_rows) } else { (Vec::new(), Vec::new()) };
    Ok(TrainingData { digest, task, train, dev, train_rows, dev_rows })
}

/// Reads the training rows and the dev rows, and sets dev rows aside where that is asked for or left open.
fn read(config: &mut Config, on_event: OnEvent<'_>) -> Result<ReadRows> {
    let is_own = choose_dataset(&mut config.data)?;
    let mut train = training_rows(&config.data, on_event)?;
    warn_of_unused(&config.data, train.rows.len());
    let first = train.rows.first().cloned().ok_or_else(|| Error::internal("a dataset without rows"))?;
    if is_own && config.data.dev.is_none() && config.data.dev_split.is_none() {
        // CB has fewer rows than the papers take of other datasets.
        config.data.dev_size.get_or_insert(TASK_DEV_ROWS.min(train.rows.len() / 5));
    }
    if let Some((dev, split)) = dev_files(&config.data) {
        if let Some(size) = config.data.dev_size {
            tracing::warn!("dev_size = {size} is not used: there are other rows to evaluate on");
        }
        let dev = Dataset::read_all(&open::data_files(dev, split, on_event)?)?;
        if let Some(size) = config.data.train_size {
            train.rows = permuted(train.rows, size, config.seed)?;
        }
        let digest = *blake3::hash([train.digest, dev.digest].as_flattened()).as_bytes();
        return Ok(ReadRows { digest, first, train: train.rows, dev: Some(dev.rows) });
    }
    if config.open.dev && config.data.dev_size.is_none() && train.rows.len() > 1 {
        config.data.dev_size = Some((train.rows.len() / 10).clamp(1, MOST_DEV_ROWS));
    }
    let (digest, seed) = (train.digest, config.seed);
    let Some(dev_size) = config.data.dev_size else {
        let train = match config.data.train_size {
            Some(size) => permuted(train.rows, size, seed)?,
            None => train.rows,
        };
        return Ok(ReadRows { digest, first, train, dev: None });
    };
    let (mut train_rows, dev_rows) = split(train.rows.len(), dev_size, seed)?;
    train_rows.truncate(config.data.train_size.unwrap_or(usize::MAX));
    on_event(Event::SetAside { dev: dev_rows.len(), of: train.rows.len(), seed });
    let of = |indices: Vec<usize>| indices.into_iter().map(|i| train.rows[i].clone()).collect();
    Ok(ReadRows { digest, first, train: of(train_rows), dev: Some(of(dev_rows)) })
}

/// Warns of settings of rows that have no effect, and of rows that are trained and evaluated.
fn warn_of_unused(data: &DataConfig, rows: usize) {
    let files = |files: &Option<DataFiles>| files.clone().map_or_else(Vec::new, |files| files.0);
    let (train, dev) = (files(&data.train), files(&data.dev));
    for (key, split, files) in
        [("train_split", &data.train_split, &train), ("dev_split", &data.dev_split, &dev)]
    {
        if let Some(split) = split
            && !files.is_empty()
            && files.iter().all(|file| Path::new(file).exists())
        {
            tracing::warn!(
                "data.{key} = \"{split}\" is not used: the rows are in files, which have no splits"
            );
        }
    }
    if let Some(size) = data.train_size.filter(|size| *size > rows) {
        tracing::warn!("data.train_size is {size}, but there are only {rows} rows");
    }
    let is_same_split = data.train_split == data.dev_split;
    if let Some(file) =
        dev.iter().find(|file| train.contains(file) && (is_same_split || Path::new(file).exists()))
    {
        tracing::warn!("{file} is both trained and evaluated on: the evaluation will look better than it is");
    }
}

/// Reads the rows of `train`.
///
/// # Errors
/// The table names no training data, or a file cannot be read.
pub fn training_rows(data: &DataConfig, on_event: OnEvent<'_>) -> Result<Dataset> {
    let train = data.train.as_ref().ok_or_else(|| {
        Error::invalid("the configuration names no training data", "set data.train, or give --data FILE")
    })?;
    let split = data.train_split.as_deref().unwrap_or("train");
    Dataset::read_all(&open::data_files(train, split, on_event)?)
}

/// The dataset of a built-in task.
///
/// # Errors
/// There is no such task.
pub fn task_dataset(task: Option<&str>) -> Result<Option<DataFiles>> {
    let task = task.map(Builtin::named).transpose()?;
    Ok(task.map(|task| DataFiles::from(task.dataset())))
}

/// Takes the dataset of the built-in task where a table names no other, and as many rows of it as MeZO and QZO do. Gives
/// whether it did.
pub fn choose_dataset(data: &mut DataConfig) -> Result<bool> {
    let own = match &data.train {
        None => task_dataset(data.task.as_deref())?,
        Some(_) => None,
    };
    let is_own = own.is_some();
    if is_own {
        data.train = own;
        data.train_size.get_or_insert(TASK_TRAIN_ROWS);
    }
    Ok(is_own)
}

/// The files of the dev rows, with their split.
fn dev_files(data: &DataConfig) -> Option<(&DataFiles, &str)> {
    let split = data.dev_split.as_deref();
    match (&data.dev, split) {
        (Some(dev), _) => Some((dev, split.unwrap_or("validation"))),
        (None, Some(split)) => Some((data.train.as_ref()?, split)),
        (None, None) => None,
    }
}

/// The first `size` rows of the permutation that the seed decides.
pub fn permuted(rows: Vec<Row>, size: usize, seed: u64) -> Result<Vec<Row>> {
    let (mut kept, _) = split(rows.len(), 0, seed)?;
    kept.truncate(size);
    Ok(kept.into_iter().map(|i| rows[i].clone()).collect())
}

/// Chooses the values that are left open or depend on the number of training rows.
fn choose_rest(config: &mut Config, checkpoint: &Checkpoint, rows: usize) {
    let OpenValues { max_steps, dev: _, quantize } = config.open;
    if let Some(epochs) = config.train.num_train_epochs.take() {
        config.train.max_steps = config.train.steps_of(epochs, rows);
    } else if max_steps {
        let [least, most] = OPEN_STEPS;
        config.train.max_steps = config.train.steps_of(OPEN_EPOCHS, rows).clamp(least, most);
    }
    if quantize && checkpoint.format() == Format::HuggingFace {
        config.quantize =
            Some(QuantizeConfig { group_size: Some(OPEN_GROUP_SIZE), ..QuantizeConfig::default() });
    }
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
