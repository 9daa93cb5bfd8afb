//! Trains the scales of a model on a task.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::event::{Event, OnEvent};
use super::inputs::Inputs;
use super::plan::{Choice, Planner};
use super::record::Recorder;
use super::{base, open};
use crate::checkpoint::{Checkpoint, MAX_SHARD_BYTES};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::eval::TaskReport;
use crate::model::Tables;
use crate::quantize::QuantizeJob;
use crate::train::{Objective, Outcome, Run, RunDir, ScoredObjective, TextObjective, write_checkpoints};
use crate::zo::journal::JournalHeader;

/// A training run.
#[derive(Debug, Clone, Copy)]
pub struct Finetune<'a> {
    pub config: &'a Config,
    /// Continue the run in the run directory, or begin it if there is none.
    pub resume: bool,
    /// Set to true to interrupt the run: it finishes its current step, saves the scales and ends.
    pub stop: &'a AtomicBool,
    /// The command line, for the report of the run.
    pub command: Option<&'a str>,
}

/// The result of a training run.
#[derive(Debug, Clone, Serialize)]
pub struct FinetuneReport {
    pub output_dir: PathBuf,
    pub steps: u64,
    pub train_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<TaskReport>,
    /// Evaluation with the f32 scales of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<TaskReport>,
    /// Evaluation of `final/` as read from disk, with scales rounded to the type of the file.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    pub last: Option<TaskReport>,
    /// NLL of `final` minus NLL of `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
}

/// Trains the scales of a model according to a recipe, in a new run directory.
///
/// # Errors
/// The inputs contradict each other, which is found before anything is written; the device or disk fails; the loss is
/// not finite in too many steps.
pub fn finetune(config: &Config, on_event: OnEvent<'_>) -> Result<FinetuneReport> {
    let never = AtomicBool::new(false);
    Finetune { config, resume: false, stop: &never, command: None }.run(on_event)
}

impl Finetune<'_> {
    /// Runs or resumes the training.
    ///
    /// # Errors
    /// Those of [`finetune`]; [`crate::error::Error::Interrupted`] after `stop` was set and everything is saved.
    pub fn run(&self, on_event: OnEvent<'_>) -> Result<FinetuneReport> {
        let mut config = self.config.clone();
        let directory = RunDir::new(&config.output_dir);
        if self.resume {
            keep_parts(&mut config, &directory)?;
        }
        // All checks of the input come before anything is written.
        let mut read = Inputs::read(config, on_event)?;
        let quantize = base::quantization(&read.config, &read.source, on_event)?;
        let Choice { parts, inputs, mut plan } = Planner::of(&read).check()?;
        read.config.train.gradient_accumulation_steps = Some(parts);
        let Inputs { config, device, dtype, source, tokenizer, data } = &read;
        let (source, dtype) = (Arc::clone(source), *dtype);
        let tables = open::tables(&mut plan, &source, device, dtype)?;
        if self.resume {
            check_settings(config, &directory)?;
        }
        directory.create(self.resume)?;
        let base = match quantize {
            Some(quantize) => {
                let (device, seed) = (config.device, config.seed);
                let job = QuantizeJob { device, seed, max_shard_bytes: MAX_SHARD_BYTES };
                base::quantized(&source, quantize, &directory, job, on_event)?
            }
            None => source,
        };

        let blocks = base.config().num_hidden_layers;
        let header = JournalHeader {
            method: config.train.method::<TextObjective<'_>>(config.seed, blocks, inputs).journal_method(),
            base_model: open::fingerprint(&base, on_event)?,
            config: config.fingerprint(),
            tokenizer: tokenizer.fingerprint()?,
            data: data.digest,
        };
        let (resolved, stop) = (config.to_toml()?, self.stop);
        let (train, seed) = (&config.train, config.seed);
        let run = Run { config: train, seed, header, directory: &directory, resolved: &resolved, stop };
        let mut model = open::model(&base, device, dtype, tables, on_event)?;
        model.train_tensors(train.trained_tensors(&base)?)?;
        let mut recorder = Recorder::new(&directory, self.command, (device, dtype), data, tokenizer);
        recorder.ask(model.as_ref(), &mut |done, of| {
            on_event(Event::Progress { work: "answering examples", done, of });
        });
        on_event(Event::Training {
            weights: model.trained().len(),
            device: device.to_string(),
            dtype,
            output_dir: config.output_dir.clone(),
            steps: train.max_steps,
            rows: train.batch_size,
            method: train.describe(inputs),
        });
        let mut loss = TextObjective::new(data, seed);
        let mut scored = read.score().map(|score| ScoredObjective::new(data, score, seed));
        let on_step = &mut |event| {
            recorder.observe(&event);
            on_event(Event::Train(event));
        };
        let outcome = match &mut scored {
            Some(objective) => {
                let mut method = train.method::<ScoredObjective<'_>>(seed, blocks, inputs);
                run.train(method.as_mut(), objective, model.as_mut(), on_step)
            }
            None => {
                let mut method = train.method::<TextObjective<'_>>(seed, blocks, inputs);
                run.train(method.as_mut(), &mut loss, model.as_mut(), on_step)
            }
        };
        recorder.trained(outcome.as_ref().ok(), device);
        let outcome = outcome?;
        let progress = &mut |work, done, of| on_event(Event::Progress { work, done, of });
        write_checkpoints(&run, &base, model.as_mut(), progress)?;
        drop(model);

        if data.dev.is_none() {
            return Ok(report(config, outcome, None));
        }
        let saved = Arc::new(Checkpoint::open(&directory.last())?);
        let model = open::model(&saved, device, dtype, Tables::InFile, on_event)?;
        let progress = &mut |done, of| on_event(Event::Progress { work: "evaluating final/", done, of });
        let last = match &scored {
            Some(objective) => objective.evaluate(model.as_ref(), progress)?,
            None => loss.evaluate(model.as_ref(), progress)?,
        };
        if let Some(last) = &last {
            recorder.tuned(last, model.as_ref(), &mut |done, of| {
                on_event(Event::Progress { work: "answering examples", done, of });
            });
        }
        Ok(report(config, outcome, last))
    }
}

/// Compares the settings with those of the run that is resumed. The journal knows only a hash of them.
///
/// # Errors
/// A setting that decides the steps differs.
fn check_settings(config: &Config, directory: &RunDir) -> Result<()> {
    // A file that cannot be read is of another version; then the hash alone decides.
    let Ok(earlier) = Config::load(&directory.config(), &[]) else { return Ok(()) };
    let differences = config.differences(&earlier)?;
    match differences.is_empty() {
        true => Ok(()),
        false => Err(Error::invalid(
            format!("{} began with other settings: {}", directory.path().display(), differences.join("; ")),
            "resume it with the settings that it began with, or start another run with -o",
        )),
    }
}

/// Keeps the number of parts into which the run that is resumed splits its rows, where the recipe leaves it open.
fn keep_parts(config: &mut Config, directory: &RunDir) -> Result<()> {
    let path = directory.config();
    if config.train.gradient_accumulation_steps.is_none() && path.exists() {
        let earlier = Config::load(&path, &[])?;
        config.train.gradient_accumulation_steps = earlier.train.gradient_accumulation_steps;
    }
    Ok(())
}

fn report(config: &Config, outcome: Outcome, last: Option<TaskReport>) -> FinetuneReport {
    let rounding = outcome.after.as_ref().zip(last.as_ref()).map(|(after, last)| last.nll - after.nll);
    FinetuneReport {
        output_dir: config.output_dir.clone(),
        steps: outcome.steps,
        train_seconds: outcome.train_seconds,
        before: outcome.before.map(TaskReport::as_logged),
        after: outcome.after.map(TaskReport::as_logged),
        last: last.map(TaskReport::without_rows),
        rounding,
        best_step: outcome.best_step,
    }
}
