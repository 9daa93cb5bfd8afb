//! The files of a run that a report shows.

use std::path::{Path, PathBuf};

use crate::app::answers::{AnsweredRow, read_examples};
use crate::app::record::{RunRecord, read_record};
use crate::config::Config;
use crate::data::{LossKind, Task};
use crate::error::{Error, Result};
use crate::eval::TaskReport;
use crate::train::{LoggedLine, RunDir, read_metrics};

/// A run as its directory shows it.
pub struct ReportedRun {
    /// The directory's name, or its path if another run has the same name.
    pub name: String,
    pub directory: PathBuf,
    pub config: Config,
    /// `config.toml` as it is.
    pub config_text: String,
    pub task: Option<Task>,
    pub record: RunRecord,
    pub metrics: Vec<LoggedLine>,
    pub examples: Vec<AnsweredRow>,
    /// Whether all steps are taken and `final/` is written.
    pub finished: bool,
}

/// An evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    pub step: u64,
    pub n: usize,
    pub accuracy: Option<f64>,
    pub stderr: Option<f64>,
    pub f1: Option<f64>,
    /// Mean score of an objective without a gradient.
    pub score: Option<f64>,
    pub nll: f64,
}

/// The evaluations that a report compares.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stages {
    pub before: Option<Stage>,
    pub best: Option<Stage>,
    pub after: Option<Stage>,
    pub last: Option<Stage>,
}

/// Reads runs.
///
/// # Errors
/// A directory is not that of a run; a file is damaged.
pub fn runs(directories: &[PathBuf]) -> Result<Vec<ReportedRun>> {
    let mut runs = directories.iter().map(|path| ReportedRun::read(path)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in &mut runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = run.directory.display().to_string();
        }
    }
    Ok(runs)
}

impl ReportedRun {
    fn read(path: &Path) -> Result<Self> {
        let directory = RunDir::new(path);
        let config = directory.config();
        if !config.is_file() {
            return Err(Error::invalid(
                format!("{} is not the directory of a run: it has no config.toml", path.display()),
                "give the directory that `qzo finetune` made: its output_dir, or -o",
            ));
        }
        let config_text = std::fs::read_to_string(&config).map_err(Error::io(&config, "reading"))?;
        let config = Config::load(&config, &[])?;
        let metrics = read_metrics(&directory.metrics())?;
        let steps = metrics.iter().map(|line| line.step).max().unwrap_or(0);
        let absolute = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned();
        Ok(Self {
            name,
            directory: path.to_path_buf(),
            task: Task::new(&config.data.task_config()).ok(),
            finished: steps >= config.train.max_steps && directory.last().exists(),
            config,
            config_text,
            record: read_record(&directory)?,
            metrics,
            examples: read_examples(&directory.examples())?,
        })
    }

    /// Number of steps taken.
    pub fn steps(&self) -> u64 {
        self.metrics.iter().map(|line| line.step).max().unwrap_or(0)
    }

    /// The lines of steps.
    pub fn step_lines(&self) -> impl Iterator<Item = &LoggedLine> {
        self.metrics.iter().filter(|line| !line.is_eval())
    }

    /// The middle of the steps' speeds, in tokens per second.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let speeds = self.step_lines().filter_map(|line| line.tokens_per_second);
        let mut speeds: Vec<f64> = speeds.filter(|speed| speed.is_finite()).collect();
        speeds.sort_unstable_by(f64::total_cmp);
        speeds.get(speeds.len() / 2).copied()
    }

    /// Name of its task: as the configuration states it, or as the rows' shape gave it.
    pub fn task_name(&self) -> Option<String> {
        let stated = self.task.as_ref().map(|task| task.name().to_string());
        stated.or_else(|| self.record.before.as_ref().map(|report| report.task.clone()))
    }

    /// Whether the answers of its task are chosen, not generated.
    pub fn chooses(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.loss_kind() == LossKind::Classification)
    }

    /// Its evaluations, from its records and, where a run has not come so far, from its metrics.
    pub fn stages(&self) -> Stages {
        let evaluations: Vec<Stage> = self.metrics.iter().filter_map(logged).collect();
        let first = evaluations.iter().find(|stage| stage.step == 0).copied();
        let best = evaluations.iter().copied().min_by(|a, b| a.objective().total_cmp(&b.objective()));
        let last = evaluations.iter().max_by_key(|stage| stage.step).filter(|stage| stage.step > 0).copied();
        let recorded = |report: &Option<TaskReport>, step| report.as_ref().map(|report| of(report, step));
        let max_steps = self.config.train.max_steps;
        Stages {
            before: recorded(&self.record.before, 0).or(first),
            best,
            after: recorded(&self.record.after, max_steps).or(last),
            last: recorded(&self.record.last, max_steps),
        }
    }
}

impl Stage {
    /// The figure by which a run chooses its best evaluation, the lower the better (see [`TaskReport::objective`]).
    fn objective(&self) -> f64 {
        self.score.map_or(self.nll, |score| -score)
    }

    /// The score, where it is not the accuracy, which is shown by itself.
    pub fn other_score(&self) -> Option<f64> {
        self.score.filter(|score| Some(*score) != self.accuracy)
    }
}

impl Stages {
    /// The evaluation of what the run has come to: `final/`, or the scales of its last evaluation.
    pub fn reached(&self) -> Option<Stage> {
        self.last.or(self.after)
    }
}

fn of(report: &TaskReport, step: u64) -> Stage {
    let TaskReport { n, accuracy, stderr, f1, score, nll, .. } = *report;
    Stage { step, n, accuracy, stderr, f1, score, nll }
}

/// The evaluation that a line of metrics holds.
pub fn logged(line: &LoggedLine) -> Option<Stage> {
    let (n, accuracy) = (line.eval_n?, line.eval_accuracy);
    let stderr = accuracy.map(|p| TaskReport::standard_error(p, n));
    Some(Stage {
        step: line.step,
        n,
        accuracy,
        stderr,
        f1: None,
        score: line.eval_score,
        nll: line.eval_nll?,
    })
}
