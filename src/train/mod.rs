//! The training loop. It owns no tensor: the model answers losses, the estimator turns them into a
//! coefficient, the journal makes the step durable, and only then the scales move. What happens is told
//! as events; nothing is printed here.

mod config;
mod replay;
mod run;
mod snapshot;

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub use config::TrainConfig;
pub use replay::{ReplayReport, replay};
pub use run::{Metric, Metrics, RunDir};

use crate::checkpoint::Checkpoint;
use crate::data::tasks::Task;
use crate::data::{Batch, Load, Sampler, TokenizedDataset};
use crate::error::{Error, Result};
use crate::eval::{TaskReport, evaluate};
use crate::model::LanguageModel;
use crate::storage::atomic::{self, STAGING_PREFIX};
use crate::zo::direction::{Signs, step_seed};
use crate::zo::journal::{Header, Journal, Record, TornTail};

/// Steps whose batches are looked at to find the widest.
const PLANNED_STEPS: u64 = 10_000;

/// What a run trains on.
pub struct Data {
    /// BLAKE3 of the files' bytes as they were parsed: of the training rows, and with a dev set of its own of
    /// both digests. The best step is told by the dev set, whose figures compare with no other's.
    pub digest: [u8; 32],
    pub task: Task,
    pub train: TokenizedDataset,
    pub dev: Option<TokenizedDataset>,
}

/// What happens, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// A journal was there: `done` steps of it count, `replayed` of them were applied again.
    Resumed {
        done: u64,
        replayed: u64,
        torn: Option<TornTail>,
    },
    Step {
        step: u64,
        loss: f64,
        projected_grad: f64,
        lr: f64,
        tokens_per_second: f64,
        skipped: bool,
    },
    /// Rows of an evaluation done so far.
    Evaluating {
        step: u64,
        done: usize,
        of: usize,
    },
    Evaluated {
        step: u64,
        report: TaskReport,
        best: bool,
    },
    Saved {
        step: u64,
    },
}

#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub steps: u64,
    /// On the dev set, before the first step.
    pub before: Option<TaskReport>,
    /// With the f32 scales of the last step.
    pub after: Option<TaskReport>,
    /// Step of the lowest dev NLL.
    pub best_step: Option<u64>,
    pub train_seconds: f64,
}

/// Everything a run needs; made by the caller, so that nothing here reads a configuration file.
pub struct Run<'a> {
    pub config: &'a TrainConfig,
    pub seed: u64,
    pub header: Header,
    pub directory: &'a RunDir,
    /// The resolved configuration, for the run directory.
    pub resolved: &'a str,
    pub data: &'a Data,
    /// Set by Ctrl-C: the step under way is finished and saved.
    pub stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Trains from where the journal ends, or from the start, up to `max_steps`.
    ///
    /// # Errors
    /// A journal of another run, a device or disk that fails, too many skipped steps, or
    /// [`Error::Interrupted`] once everything is saved.
    pub fn train(&self, model: &mut dyn LanguageModel, on_event: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let (mut journal, records) = self.open_journal(model, on_event)?;
        let done = records.len() as u64;
        // Not before the journal is known to be this run's, and locked.
        self.directory.write_config(self.resolved)?;
        let (mut metrics, history) =
            Metrics::open(self.directory, done, &mut |step| self.metric(&records[step as usize - 1], None))?;
        let mut state = State::resume(&history, &self.data.task);
        let mut skipped_in_a_row = records.iter().rev().take_while(|r| r.skipped).count() as u64;
        drop(records);
        self.after_step(model, done, &mut state, &mut metrics, on_event)?;

        let estimator = self.config.estimator();
        let mut sampler = Sampler::new(self.seed, self.data.train.examples.len());
        let started = Instant::now();
        for step in done..self.config.max_steps {
            if self.stop.load(Ordering::Relaxed) {
                self.save(model, step, on_event)?;
                return Err(Error::Interrupted(format!(
                    "{step} steps are saved in {}; continue with --resume",
                    self.directory.path().display()
                )));
            }
            let clock = Instant::now();
            let cursor = step * self.config.batch_size as u64;
            let rows = sampler.batch(cursor, self.config.batch_size);
            let batch =
                Batch::new(self.data.train.objective, rows.iter().map(|&i| &self.data.train.examples[i]));
            let (seed, lr) = (step_seed(self.seed, step), self.config.learning_rate_at(step));

            let outcome = estimator.estimate(seed, lr, &mut |noise| {
                let log_probs = model.log_probs((&batch).into(), &batch.targets, Signs::Both(noise))?;
                Ok(batch.losses(&log_probs))
            })?;
            let record = Record::new(step, seed, cursor + rows.len() as u64, &outcome);
            journal.append(&record)?;
            for noise in self.header.steps(&record) {
                model.step(noise)?;
            }

            let forwards = 2.0 * f64::from(self.config.probes);
            let tokens_per_second = forwards * batch.tokens.len() as f64 / clock.elapsed().as_secs_f64();
            metrics.write(&self.metric(&record, Some(tokens_per_second)))?;
            skipped_in_a_row = if outcome.skipped { skipped_in_a_row + 1 } else { 0 };
            on_event(Event::Step {
                step: step + 1,
                loss: outcome.loss(),
                projected_grad: outcome.projected_grad(),
                lr,
                tokens_per_second,
                skipped: outcome.skipped,
            });
            if skipped_in_a_row > self.config.max_skipped_steps {
                return Err(diverged(step + 1, skipped_in_a_row));
            }
            self.after_step(model, step + 1, &mut state, &mut metrics, on_event)?;
        }
        Ok(Outcome {
            steps: self.config.max_steps,
            before: state.before,
            after: state.after,
            best_step: state.best.map(|(step, _)| step),
            train_seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Writes `final/` from the model's scales, then `best/` from those of the best evaluation, which
    /// the model holds afterwards. Checkpoints of an earlier, shorter part of the run are replaced.
    ///
    /// # Errors
    /// As [`Checkpoint::save_tuned`].
    pub fn write_checkpoints(&self, checkpoint: &Checkpoint, model: &mut dyn LanguageModel) -> Result<()> {
        replace_checkpoint(checkpoint, model, &self.directory.last())?;
        if snapshot::restore(&self.directory.best_snapshot(), model, u64::MAX, &self.id())?.is_some() {
            replace_checkpoint(checkpoint, model, &self.directory.best())?;
        }
        Ok(())
    }

    /// Opens or begins the journal and brings the model's scales to where it ends.
    fn open_journal(
        &self,
        model: &mut dyn LanguageModel,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<(Journal, Vec<Record>)> {
        let path = self.directory.journal();
        if !path.exists() {
            return Ok((Journal::create(&path, &self.header)?, Vec::new()));
        }
        let (journal, records, torn) = Journal::open(&path, &self.header)?;
        self.directory.remove_abandoned()?;
        let done = records.len() as u64;
        if done > self.config.max_steps {
            let what =
                format!("the run has taken {done} steps already, but max_steps is {}", self.config.max_steps);
            return Err(Error::invalid(
                what,
                "raise max_steps, or rebuild an earlier step with `qzo replay RUN --step N`",
            ));
        }
        let from = snapshot::restore(&self.directory.snapshot(), model, done, &self.id())?.unwrap_or(0);
        for noise in records[from as usize..].iter().flat_map(|record| self.header.steps(record)) {
            model.step(noise)?;
        }
        on_event(Event::Resumed { done, replayed: done - from, torn });
        Ok((journal, records))
    }

    /// Evaluates and saves where `step` calls for it. On a resumed run this happens again for the last
    /// step, because it may have been killed in between; the results are the same.
    fn after_step(
        &self,
        model: &mut dyn LanguageModel,
        step: u64,
        state: &mut State,
        metrics: &mut Metrics,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let last = step == self.config.max_steps;
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        if let Some(dev) = self.data.dev.as_ref().filter(|_| step == 0 || last || due(self.config.eval_steps))
        {
            let of = dev.examples.len();
            let report = evaluate(model, &self.data.task, dev, &mut |done| {
                on_event(Event::Evaluating { step, done, of });
            })?;
            let best = report.nll < state.best.map_or(f64::INFINITY, |(_, nll)| nll);
            if best {
                state.best = Some((step, report.nll));
                snapshot::save(&self.directory.best_snapshot(), model, step, &self.id())?;
            }
            metrics.write(&Metric::Eval {
                step,
                eval_nll: report.nll,
                eval_accuracy: report.accuracy,
                eval_n: report.n,
            })?;
            on_event(Event::Evaluated { step, report: report.clone(), best });
            match step {
                0 => state.before = Some(report),
                _ => state.after = Some(report),
            }
        }
        if step > 0 && (last || due(self.config.save_steps)) {
            self.save(model, step, on_event)?;
        }
        Ok(())
    }

    fn save(&self, model: &dyn LanguageModel, step: u64, on_event: &mut dyn FnMut(Event)) -> Result<()> {
        snapshot::save(&self.directory.snapshot(), model, step, &self.id())?;
        on_event(Event::Saved { step });
        Ok(())
    }

    fn metric(&self, record: &Record, tokens_per_second: Option<f64>) -> Metric {
        let n = record.probes.len() as f64;
        let loss = record.probes.iter().map(|p| (p.loss_plus + p.loss_minus) / 2.0).sum::<f64>() / n;
        let gradients =
            record.probes.iter().map(|p| (p.loss_plus - p.loss_minus) / (2.0 * self.config.zo_eps));
        let projected_grad = gradients.sum::<f64>() / n;
        Metric::Step {
            step: record.step + 1,
            loss: Some(loss).filter(|l| l.is_finite()),
            projected_grad: Some(projected_grad).filter(|g| g.is_finite()),
            lr: self.config.learning_rate_at(record.step),
            tokens_per_second,
            skipped: record.skipped,
        }
    }

    /// Names this run in its snapshots.
    fn id(&self) -> String {
        let Header { base_model, config, tokenizer, data, .. } = &self.header;
        let mut hash = blake3::Hasher::new();
        [base_model, config, tokenizer, data].into_iter().for_each(|part| {
            hash.update(part);
        });
        hash.finalize().to_hex().to_string()
    }
}

/// What the loop remembers of its evaluations.
#[derive(Default)]
struct State {
    before: Option<TaskReport>,
    after: Option<TaskReport>,
    /// Step and dev NLL.
    best: Option<(u64, f64)>,
}

impl State {
    fn resume(history: &[Metric], task: &Task) -> Self {
        let mut state = Self::default();
        for metric in history {
            if let Metric::Eval { step, eval_nll, eval_accuracy, eval_n } = metric {
                if *eval_nll < state.best.map_or(f64::INFINITY, |(_, nll)| nll) {
                    state.best = Some((*step, *eval_nll));
                }
                if *step == 0 {
                    state.before = Some(TaskReport::new(task, *eval_n, *eval_accuracy, *eval_nll));
                }
            }
        }
        state
    }
}

/// The most that one forward pass of a run's training takes, for one sign of the perturbation.
pub fn widest_batch(config: &TrainConfig, seed: u64, train: &TokenizedDataset) -> Load {
    let mut loads = train.loads();
    if config.max_steps > PLANNED_STEPS {
        // Too many to go through: the longest rows that there are.
        loads.sort_by_key(|load| std::cmp::Reverse(load.tokens));
        return loads.into_iter().cycle().take(config.batch_size).sum();
    }
    let mut sampler = Sampler::new(seed, loads.len());
    let mut batch = |step| sampler.batch(step * config.batch_size as u64, config.batch_size);
    let batches = (0..config.max_steps).map(|step| batch(step).into_iter().map(|i| loads[i]).sum());
    batches.fold(Load::default(), Load::max)
}

/// The old checkpoint goes only once the new one is whole. A run killed in between writes it again, so
/// the new one bears the name of what is unfinished until then.
fn replace_checkpoint(checkpoint: &Checkpoint, model: &dyn LanguageModel, out: &Path) -> Result<()> {
    let scales = &mut |name: &str| model.scales(name);
    if !out.exists() {
        return checkpoint.save_tuned(out, scales);
    }
    let mut name = OsString::from(STAGING_PREFIX);
    name.push(out.file_name().unwrap_or_default());
    let fresh = out.with_file_name(name);
    checkpoint.save_tuned(&fresh, scales)?;
    std::fs::remove_dir_all(out).map_err(Error::io(out, "replacing"))?;
    std::fs::rename(&fresh, out).map_err(Error::io(out, "replacing"))?;
    atomic::sync_directory(atomic::parent(out)).map_err(Error::io(out, "replacing"))
}

fn diverged(step: u64, skipped: u64) -> Error {
    Error::invalid(
        format!("the loss was NaN or infinite in {skipped} steps in a row, up to step {step}"),
        "lower learning_rate or zo_eps, set clip, or use --dtype f32",
    )
}
