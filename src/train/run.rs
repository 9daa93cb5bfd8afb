//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::config::TrainConfig;
use super::directory::RunDir;
use super::divergence::Losses;
use super::event::{Outcome, TrainEvent};
use super::history::History;
use super::method::{Method, StepStart};
use super::metrics::{LoggedEval, MetricLine, Metrics};
use super::objective::Objective;
use super::snapshot::{self, Restored};
use super::step::step;
use crate::error::{Error, Result};
use crate::model::{Scales, Update};
use crate::zo::journal::{Hash, Journal, JournalHeader, Record, StepTaken};

/// The settings of a run. The caller provides them, so that this module reads no configuration file.
pub struct Run<'a> {
    pub config: &'a TrainConfig,
    pub seed: u64,
    pub header: JournalHeader,
    pub directory: &'a RunDir,
    /// The resolved configuration, for the run directory.
    pub resolved: &'a str,
    /// Set to true by Ctrl-C. The run then finishes its current step, saves the scales and ends.
    pub stop: &'a AtomicBool,
}

/// The state of a run in progress.
pub(super) struct Training<'a, O: Objective> {
    pub method: &'a mut dyn Method<O>,
    pub objective: &'a mut O,
    pub model: &'a mut O::Model,
    /// Digest of the last snapshot; zeros if there is none.
    pub snapshot: Hash,
    pub history: History,
    /// Losses of the steps so far.
    pub losses: Losses,
    /// How often the run has gone back to a snapshot.
    pub returns: u32,
}

/// An open journal with its records.
struct Opened {
    journal: Journal,
    records: Vec<Record>,
    /// Number of steps that the scales have taken.
    start: u64,
}

impl Run<'_> {
    /// Trains from the end of the journal, or from the first step, up to `max_steps`.
    ///
    /// # Errors
    /// The journal belongs to another run, the device or disk fails, too many steps are skipped, a repeated step gives
    /// another loss than the journal's, or [`Error::Interrupted`] after everything is saved.
    pub fn train<O: Objective>(
        &self,
        method: &mut dyn Method<O>,
        objective: &mut O,
        model: &mut O::Model,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<Outcome> {
        let mut training = Training {
            method,
            objective,
            model,
            snapshot: Hash::default(),
            history: History::default(),
            losses: Losses::default(),
            returns: 0,
        };
        let Opened { mut journal, records, start } = self.open_journal(&mut training, on_event)?;
        let done = records.len() as u64;
        // Written only now that the journal is locked and known to belong to this run.
        self.directory.write_config(self.resolved)?;
        let trackers = self.config.report_to;
        let (mut metrics, evaluations) = Metrics::open(self.directory, done, trackers, &mut |step| {
            let record = &records[step as usize - 1];
            let lr = match record.taken {
                StepTaken::Exact { learning_rate, .. } => learning_rate,
                StepTaken::Zo { .. } => self.config.learning_rate_at(record.step),
            };
            Ok(MetricLine::of(record, training.method.gradient(record)?, lr, None))
        })?;
        training.history = History::of(&evaluations, training.objective);
        records[..start as usize].iter().for_each(|record| training.learn(record));
        if start == 0 && !self.header.method.is_replayed() {
            self.save(&mut training, 0, on_event)?;
        }
        let mut skipped_in_a_row = records.iter().rev().take_while(|r| r.skipped).count() as u64;
        if start == done {
            self.after_step(&mut training, done, &mut metrics, on_event)?;
        }

        let clock = Instant::now();
        for step in start..self.config.max_steps {
            let repeats = records.get(step as usize);
            if self.stop.load(Ordering::Relaxed) {
                // The journal has the steps that are repeated, so they need no snapshot.
                if repeats.is_none() {
                    self.save_interrupted(&mut training, step, on_event)?;
                }
                return Err(Error::Interrupted(format!(
                    "{} steps are saved in {}; continue with --resume",
                    step.max(done),
                    self.directory.path().display()
                )));
            }
            let (record, tokens_per_second) =
                self.step(&mut training, step, &mut |record| match repeats {
                    Some(known) => self.check_repeated(known, record),
                    None => journal.append(record),
                })?;
            let lr = self.learning_rate(&training, step);
            if repeats.is_none() {
                let gradient = training.method.gradient(&record)?;
                metrics.write(&MetricLine::of(&record, gradient, lr, Some(tokens_per_second)))?;
                skipped_in_a_row = if record.skipped { skipped_in_a_row + 1 } else { 0 };
                on_event(TrainEvent::Step {
                    step: step + 1,
                    loss: record.loss(),
                    gradient,
                    lr,
                    tokens_per_second,
                    skipped: record.skipped,
                });
                if skipped_in_a_row > self.config.max_skipped_steps && self.header.method.is_replayed() {
                    return Err(diverged(step + 1, skipped_in_a_row));
                }
            }
            training.learn(&record);
            if record.skipped && !self.header.method.is_replayed() {
                self.go_back(&mut training, &record, on_event)?;
            }
            if step + 1 >= done {
                self.after_step(&mut training, step + 1, &mut metrics, on_event)?;
            } else if self.is_due(self.config.save_steps, step + 1) {
                // A step that is repeated may go back to this snapshot, as it did before.
                self.save(&mut training, step + 1, on_event)?;
            }
        }
        if training.returns > 0 {
            tracing::warn!(
                "the loss ran away {} times, and each time the run went back to its last snapshot: a lower \
                 train.learning_rate may learn more",
                training.returns
            );
        }
        let History { before, after, best } = training.history;
        Ok(Outcome {
            steps: self.config.max_steps,
            before,
            after,
            best_step: best.map(|(step, _)| step),
            train_seconds: clock.elapsed().as_secs_f64(),
        })
    }

    /// Takes step `number`. Returns its record, and the tokens that its passes read per second.
    fn step<O: Objective>(
        &self,
        training: &mut Training<'_, O>,
        number: u64,
        journal: &mut dyn FnMut(&Record) -> Result<()>,
    ) -> Result<(Record, f64)> {
        let clock = Instant::now();
        let batches = self.config.batches(training.objective, number);
        let now = StepStart {
            learning_rate: self.learning_rate(training, number),
            rate_left: training.rate_left(),
            loss_limit: training.losses.limit(),
            ..self.config.step_start(self.seed, number, training.snapshot)
        };
        let record = step(training.method, training.objective, training.model, &batches, now, journal)?;
        let tokens: usize = batches.iter().map(|batch| training.objective.tokens(batch)).sum();
        let tokens = training.method.passes() * tokens as f64;
        Ok((record, tokens / clock.elapsed().as_secs_f64()))
    }

    /// Opens or creates the journal and restores the scales: to the end of the journal or, for a method whose steps do
    /// not follow from their records, to the last snapshot.
    fn open_journal<O: Objective>(
        &self,
        training: &mut Training<'_, O>,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<Opened> {
        let path = self.directory.journal();
        if !path.exists() {
            return Ok(Opened {
                journal: Journal::create(&path, &self.header)?,
                records: Vec::new(),
                start: 0,
            });
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
        let named = |restored: &Restored| {
            records.get(restored.step as usize).is_none_or(|next| is_named(restored, next))
        };
        let restored =
            snapshot::restore(&self.directory.snapshot(), training.model, done, &self.header.id(), named)?;
        let mut start = 0;
        if let Some(Restored { step, digest, state }) = restored {
            training.method.restore(state)?;
            (start, training.snapshot) = (step, digest);
            let (path, id) = (self.directory.interrupted(), self.header.id());
            let later = snapshot::restore(&path, training.model, done, &id, |later| later.step > step)?;
            if let Some(Restored { step, state, .. }) = later {
                training.method.restore(state)?;
                start = step;
            }
        }
        let moves: Vec<_> =
            records[start as usize..].iter().flat_map(|record| self.header.method.moves(record)).collect();
        on_event(TrainEvent::Resumed { done, repeated: done - start, torn });
        if self.header.method.is_replayed() {
            training.model.apply(Update::Moves(&moves))?;
            start = done;
        }
        Ok(Opened { journal, records, start })
    }

    /// Evaluates and saves if that is due after `step`. A resumed run does this again for its last step, because it may
    /// have been killed in between; the results are the same.
    fn after_step<O: Objective>(
        &self,
        training: &mut Training<'_, O>,
        step: u64,
        metrics: &mut Metrics,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<()> {
        let last = step == self.config.max_steps;
        if step == 0 || last || self.is_due(self.config.eval_steps, step) {
            self.evaluate(training, step, metrics, on_event)?;
        }
        if step > 0 && (last || self.is_due(self.config.save_steps, step)) {
            self.save(training, step, on_event)?;
        }
        Ok(())
    }

    fn is_due(&self, every: u64, step: u64) -> bool {
        every > 0 && step.is_multiple_of(every)
    }

    fn evaluate<O: Objective>(
        &self,
        training: &mut Training<'_, O>,
        step: u64,
        metrics: &mut Metrics,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<()> {
        let progress = &mut |done, of| on_event(TrainEvent::Evaluating { step, done, of });
        let Some(report) = training.objective.evaluate(training.model, progress)? else { return Ok(()) };
        let best = report.objective() < training.history.best.map_or(f64::INFINITY, |(_, value)| value);
        if best {
            training.history.best = Some((step, report.objective()));
            snapshot::save(&self.directory.best_snapshot(), training.model, &[], step, &self.header.id())?;
        }
        metrics.write(&MetricLine::Eval(LoggedEval {
            step,
            eval_nll: report.nll,
            eval_accuracy: report.accuracy,
            eval_score: report.score,
            eval_n: report.n,
        }))?;
        on_event(TrainEvent::Evaluated { step, report: report.clone(), best });
        match step {
            0 => training.history.before = Some(report),
            _ => training.history.after = Some(report),
        }
        Ok(())
    }

    /// The learning rate of a step: that of the schedule, halved each time that the run has gone back.
    fn learning_rate<O: Objective>(&self, training: &Training<'_, O>, step: u64) -> f64 {
        self.config.learning_rate_at(step) * training.rate_left()
    }

    /// Compares a repeated step with its record in the journal.
    ///
    /// # Errors
    /// The step gives another loss than the journal's.
    fn check_repeated(&self, known: &Record, record: &Record) -> Result<()> {
        let (then, now) = (known.loss(), record.loss());
        if then.to_bits() == now.to_bits() && known.skipped == record.skipped {
            return Ok(());
        }
        Err(Error::invalid(
            format!("step {} gives a loss of {now}, but the journal has {then}", known.step + 1),
            "resume on the device and with the number of threads that the run began with, or start the run again",
        ))
    }
}

impl<O: Objective> Training<'_, O> {
    /// The share of the learning rate that is left: half, for each return to a snapshot.
    fn rate_left(&self) -> f64 {
        0.5f64.powi(self.returns as i32)
    }

    /// Takes note of a step's loss.
    fn learn(&mut self, record: &Record) {
        match (&record.taken, record.skipped) {
            (StepTaken::Exact { .. }, true) => self.returns += 1,
            (StepTaken::Exact { loss, .. }, false) => self.losses.add(*loss),
            (StepTaken::Zo { .. }, _) => {}
        }
    }
}

/// Whether the next step's record names this snapshot. Zeroth-order records name none, so any snapshot matches.
fn is_named(snapshot: &Restored, next: &Record) -> bool {
    match &next.taken {
        StepTaken::Exact { snapshot: named, .. } => *named == snapshot.digest,
        StepTaken::Zo { .. } => true,
    }
}

fn diverged(step: u64, skipped: u64) -> Error {
    Error::diverged(
        format!("the loss was NaN or infinite in {skipped} steps in a row, up to step {step}"),
        "lower learning_rate or zo_eps, set clip, or use --dtype f32",
    )
}
