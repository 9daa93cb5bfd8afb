//! Measures a model on the rows of a task.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::event::{Event, OnEvent};
use super::{data, open};
use crate::checkpoint::Checkpoint;
use crate::data::tasks::{Task, TaskConfig};
use crate::data::{DataFiles, Dataset, Limits, Overlong, Row, TokenizedDataset, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::{self, HarnessRun, TaskReport};
use crate::model::LanguageModel;
use crate::storage::atomic::{create_directory, parent, write_atomically};

/// The rows to measure, and what is asked of them.
#[derive(Debug, Clone, Default)]
pub struct TaskMeasure {
    /// `None`: the dataset of the built-in task.
    pub data: Option<DataFiles>,
    pub task: TaskConfig,
    /// Split of a dataset of the hub. The default is `validation`.
    pub split: Option<String>,
    /// Number of rows to measure, from the first; `None`: all.
    pub limit: Option<usize>,
    /// Treatment of rows that are longer than the model's context; `None`: an error.
    pub overlong: Option<Overlong>,
    /// Number of solved examples before each prompt.
    pub num_fewshot: usize,
    /// Rows of the solved examples; `None`: the split `train` of the dataset.
    pub fewshot_data: Option<DataFiles>,
    /// File for the results in the layout of lm-evaluation-harness.
    pub output: Option<PathBuf>,
}

/// Loads the model, once the rows are known to be good.
pub type Loader<'a> = &'a dyn Fn(OnEvent<'_>) -> Result<Box<dyn LanguageModel>>;

impl TaskMeasure {
    /// Measures a model. `about` holds its name, the device and the type.
    ///
    /// # Errors
    /// The rows cannot be read, or one does not fit the task; the model or the device fails.
    pub fn measure(
        &self,
        (model, device, dtype): (&str, String, String),
        seed: u64,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        load: Loader<'_>,
        on_event: OnEvent<'_>,
    ) -> Result<TaskReport> {
        let started = SystemTime::now();
        self.output.as_deref().map_or(Ok(()), prepare)?;
        let own = match &self.data {
            None => data::task_dataset(self.task.task.as_deref())?,
            Some(_) => None,
        };
        let files = self.data.as_ref().or(own.as_ref()).ok_or_else(|| {
            let help = "give --data FILE, or --task NAME for a task with a dataset of its own";
            Error::invalid("no rows to measure", help)
        })?;
        let split = self.split.as_deref().unwrap_or("validation");
        let mut rows = Dataset::read_all(&open::data_files(files, split, on_event)?)?.rows;
        if own.is_some() && rows.len() > data::TASK_TEST_ROWS {
            rows = data::permuted(rows, data::TASK_TEST_ROWS, seed)?;
        }
        let all = rows.len();
        rows.truncate(self.limit.unwrap_or(usize::MAX));
        let task = Task::of_rows(&self.task, &rows, tokenizer)?;
        let shots = self.shots(&task, files, seed, on_event)?;
        let report = self.report(&rows, &task, &shots, checkpoint, tokenizer, load, on_event)?;
        if let Some(output) = &self.output {
            let (data, limit, num_fewshot) = (files.0.as_slice(), self.limit, self.num_fewshot);
            let run = HarnessRun { model, device, dtype, data, rows: all, num_fewshot, limit, started };
            let file = format!("{:#}\n", eval::harness_file(&report, &run));
            write_atomically(output, file.as_bytes())?;
        }
        Ok(report)
    }

    /// The solved examples before every prompt, as one text.
    fn shots(&self, task: &Task, files: &DataFiles, seed: u64, on_event: OnEvent<'_>) -> Result<String> {
        if self.num_fewshot == 0 {
            return Ok(String::new());
        }
        let is_local = |name: &String| Path::new(name).exists() || name == crate::data::STDIN;
        if self.fewshot_data.is_none() && files.0.iter().any(is_local) {
            return Err(Error::invalid(
                "--num-fewshot takes its examples from other rows than those that are measured",
                "give them with --fewshot-data FILE",
            ));
        }
        let files = self.fewshot_data.as_ref().unwrap_or(files);
        let rows: Vec<Row> = Dataset::read_all(&open::data_files(files, "train", on_event)?)?.rows;
        let solved = |row: &Row| {
            let solved = task.example(row)?.solved();
            solved
                .ok_or_else(|| row.error("chats and texts have no solved examples: leave --num-fewshot out"))
        };
        let shots = data::permuted(rows, self.num_fewshot, seed)?;
        shots.iter().map(|row| Ok(solved(row)?.trim_end().to_owned() + "\n\n")).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of the job, and there is one caller")]
    fn report(
        &self,
        rows: &[Row],
        task: &Task,
        shots: &str,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        load: Loader<'_>,
        on_event: OnEvent<'_>,
    ) -> Result<TaskReport> {
        let limits = Limits { overlong: self.overlong, ..data::model_limits(checkpoint) };
        let of = rows.len();
        let progress = &mut |done| on_event(Event::Progress { work: "tokenizing", done, of });
        let data = TokenizedDataset::after_shots(rows, task, shots, tokenizer, limits, progress)?;
        on_event(Event::Rows { set: "data", kept: data.examples.len(), lengths: data.lengths });
        let model = load(on_event)?;
        let progress = &mut |done| on_event(Event::Progress { work: "rows", done, of });
        let mut report = eval::evaluate(model.as_ref(), task, &data, progress)?;
        if task.is_generation() {
            eval::evaluate_answers(model.as_ref(), tokenizer, task, rows, &data, &mut report, progress)?;
        }
        Ok(report)
    }
}

/// Makes sure, before a long measurement, that a file can be written at `path`.
fn prepare(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::invalid(
            format!("{} is a directory", path.display()),
            "name a file for the results, such as results.json",
        ));
    }
    create_directory(parent(path))
}
