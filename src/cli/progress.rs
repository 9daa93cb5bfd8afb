//! The events of a job as progress on standard error.

use std::time::Instant;

use super::console::{Bytes, Console, Progress};
use super::report::describe;
use crate::app::{Event, OnEvent};
use crate::checkpoint::Passed;
use crate::data::LengthReport;
use crate::quant::OutputError;
use crate::quantize::QuantizeEvent;
use crate::train::{Gradient, TrainEvent};

/// Shows events as they come.
pub struct Reporter {
    console: Console,
    /// The bar of the work under way, by its name: one that counts, or one of bytes.
    counting: Option<(String, Progress)>,
    moving: Option<(String, Bytes)>,
    /// Training steps between lines; 0: none.
    logging_steps: u64,
    /// Bytes of the file under way that were told before.
    fetched: u64,
    /// When the first block was begun, and how many an earlier run had done.
    blocks: Option<(Instant, usize)>,
}

impl Reporter {
    pub fn new(console: Console) -> Self {
        Self { console, counting: None, moving: None, logging_steps: 0, fetched: 0, blocks: None }
    }

    pub fn logging_every(self, steps: u64) -> Self {
        Self { logging_steps: steps, ..self }
    }

    /// Runs a job and shows its events.
    pub fn through<T>(mut self, job: impl FnOnce(OnEvent<'_>) -> T) -> T {
        let result = job(&mut |event| self.show(&event));
        self.finish();
        result
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Download { file, done, of } => self.download(file, *done, *of),
            Event::Rows { set, kept, lengths } => self.rows(set, *kept, lengths),
            Event::Load { done, of } => self.count("loading", *done, *of),
            Event::Training { weights, device, dtype, output_dir, steps } => {
                self.finish();
                self.console.note(&format!(
                    "training {weights} weights on {device} in {dtype}, run in {}",
                    output_dir.display()
                ));
                self.progress("training", *steps as usize);
            }
            Event::Train(event) => self.train(event),
            Event::Quantize(event) => self.quantize(event),
            Event::Export(passed) => self.pass("exporting", passed),
            Event::Evaluate { unit, done, of } => self.count(unit, *done, *of),
            Event::Replay { done, of } => self.count("replaying", *done, *of),
            Event::TornTail(torn) => {
                self.finish();
                self.console.note(&format!(
                    "the journal ends in {} torn bytes at offset {}: ignored",
                    torn.bytes, torn.offset
                ));
            }
        }
    }

    fn download(&mut self, file: &str, done: u64, of: u64) {
        if self.moving.as_ref().is_none_or(|(name, _)| name != file) {
            self.fetched = 0;
        }
        let new = done.saturating_sub(self.fetched);
        self.fetched = done;
        self.bytes(file).pass(new, of, true);
    }

    fn rows(&self, set: &str, kept: usize, lengths: &LengthReport) {
        let LengthReport { rows, dropped, truncated, longest, .. } = lengths;
        match set {
            "data" if dropped + truncated == 0 => {}
            "data" => {
                self.console.note(&format!("{dropped} of {rows} rows dropped, {truncated} truncated"));
            }
            _ => self.console.note(&format!(
                "{set}: {kept} of {rows} rows ({dropped} dropped, {truncated} truncated), up to {longest} tokens"
            )),
        }
    }

    fn train(&mut self, event: &TrainEvent) {
        let logging_steps = self.logging_steps;
        let bar = self.progress("training", 0);
        match event {
            TrainEvent::Resumed { done, repeated, torn } => {
                if let Some(torn) = torn {
                    bar.note(&format!(
                        "the journal ended in {} torn bytes at offset {}: cut",
                        torn.bytes, torn.offset
                    ));
                }
                bar.note(&format!("resumed after step {done} ({repeated} replayed)"));
                bar.set(*done);
            }
            TrainEvent::Step { step, loss, gradient, lr, tokens_per_second, skipped } => {
                bar.set(*step);
                if *skipped {
                    bar.note(&format!("step {step}: a loss was not finite; skipped"));
                } else if logging_steps > 0 && step.is_multiple_of(logging_steps) {
                    let gradient = match gradient {
                        Gradient::Projected(value) => format!("projected_grad {value:+.3}"),
                        Gradient::Norm(value) => format!("grad_norm {value:.3}"),
                    };
                    bar.note(&format!(
                        "step {step}  loss {loss:.4}  {gradient}  lr {lr:.2e}  {tokens_per_second:.0} tokens/s"
                    ));
                }
            }
            TrainEvent::Evaluating { step, done, of } => {
                bar.message(&format!("step {step}: evaluating {done}/{of}"));
            }
            TrainEvent::Evaluated { step, report, best } => {
                let best = if *best { "  (best so far)" } else { "" };
                bar.message("training");
                bar.note(&format!("step {step}  dev {}{best}", describe(report)));
            }
            TrainEvent::Saved { step } => tracing::info!("scales of step {step} saved"),
        }
    }

    fn quantize(&mut self, event: &QuantizeEvent) {
        match event {
            QuantizeEvent::FewSamples { text, found, tokens, wanted } => self.console.note(&format!(
                "note: {} has {found} windows of {tokens} tokens, not {wanted}; the result is better with more",
                text.display()
            )),
            QuantizeEvent::Begins { done, of } => {
                self.blocks = Some((Instant::now(), *done));
                let bar = self.progress("quantizing", *of);
                if *done > 0 {
                    bar.set(*done as u64);
                    bar.note(&format!("continuing after block {done}"));
                }
            }
            QuantizeEvent::Linear(report) => tracing::info!("{}: {}", report.name, in_words(report.error)),
            QuantizeEvent::Block { done, of, error } => {
                let (started, resumed) = *self.blocks.get_or_insert_with(|| (Instant::now(), 0));
                let each = started.elapsed().as_secs_f64() / (done - resumed).max(1) as f64;
                let left = each * (of - done) as f64;
                let bar = self.progress("quantizing", *of);
                bar.set(*done as u64);
                bar.note(&format!("block {done}/{of}  {}  {left:.0} s left", in_words(*error)));
            }
            QuantizeEvent::Written(passed) => self.pass("writing", passed),
        }
    }

    fn count(&mut self, what: &str, done: usize, of: usize) {
        self.progress(what, of).set(done as u64);
    }

    fn pass(&mut self, what: &str, passed: &Passed) {
        self.bytes(what).pass(passed.bytes, passed.of, !passed.was_there);
    }
    /// The counting bar of this name, of `of` units where that is not 0.
    fn progress(&mut self, what: &str, of: usize) -> &mut Progress {
        if !matches!(&self.counting, Some((name, _)) if name == what) {
            self.finish();
        }
        let console = self.console;
        let (_, bar) =
            self.counting.get_or_insert_with(|| (what.to_owned(), console.progress(what, of as u64)));
        if of > 0 {
            bar.set_total(of as u64);
        }
        bar
    }

    /// The bar of this name that counts bytes.
    fn bytes(&mut self, what: &str) -> &mut Bytes {
        if !matches!(&self.moving, Some((name, _)) if name == what) {
            self.finish();
        }
        let console = self.console;
        let (_, bar) = self.moving.get_or_insert_with(|| (what.to_owned(), console.bytes(what)));
        bar
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.counting.take() {
            bar.finish();
        }
        if let Some((_, bar)) = self.moving.take() {
            bar.finish();
        }
    }
}

fn in_words(error: OutputError) -> String {
    let [nearest, calibrated] = [error.nearest, error.feedback].map(|error| 100.0 * error);
    format!("output error {nearest:.4} % rounded, {calibrated:.4} % calibrated")
}
