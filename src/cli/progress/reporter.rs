//! Shows the events of a job on standard error.

use std::time::Instant;

use super::current::CurrentBar;
use super::{rows, training};
use crate::app::{Event, OnEvent};
use crate::checkpoint::Passed;
use crate::cli::console::Console;
use crate::quant::OutputError;
use crate::quantize::QuantizeEvent;

/// Shows events as they occur.
pub struct Reporter {
    console: Console,
    bar: CurrentBar,
    /// Training steps between lines; 0: no lines.
    logging_steps: u64,
    /// Bytes of the current work at its last event.
    passed: u64,
    /// Start of the calibration, and the number of blocks that an earlier run had finished.
    blocks: Option<(Instant, usize)>,
}

impl Reporter {
    pub fn new(console: Console) -> Self {
        Self { console, bar: CurrentBar::new(console.quiet), logging_steps: 0, passed: 0, blocks: None }
    }

    pub fn logging_every(self, steps: u64) -> Self {
        Self { logging_steps: steps, ..self }
    }

    /// Runs a job and shows its events.
    pub fn through<T>(mut self, job: impl FnOnce(OnEvent<'_>) -> T) -> T {
        let result = job(&mut |event| self.show(&event));
        self.bar.finish();
        result
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Progress { work, done, of } => self.bar.count(work, *of).set(*done as u64),
            Event::Bytes { work, done, of } => self.bytes(work, *done, *of),
            Event::Rows { set, kept, lengths } => rows::counts(self.console, set, *kept, lengths),
            Event::SetAside { dev, of, seed } => {
                self.console.note(&format!("{dev} of {of} rows are set aside for evaluation (seed {seed})"));
            }
            Event::Example(pieces) => rows::example(self.console, pieces),
            Event::Training { weights, device, dtype, output_dir, steps, rows, method } => {
                self.bar.finish();
                self.console.note(&format!(
                    "training {weights} weights on {device} in {dtype}: {steps} steps of {rows} rows, run in {}",
                    output_dir.display()
                ));
                self.console.note(method);
                self.bar.count("training", *steps as usize);
            }
            Event::Train(event) => training::show(self.bar.count("training", 0), event, self.logging_steps),
            Event::Quantize(event) => self.quantize(event),
            Event::Export(passed) => self.pass("exporting", passed),
            Event::TornTail(torn) => {
                self.bar.finish();
                self.console.note(&format!(
                    "the journal ends in {} torn bytes at offset {}: ignored",
                    torn.bytes, torn.offset
                ));
            }
        }
    }

    fn bytes(&mut self, work: &str, done: u64, of: u64) {
        // The same work may follow on itself: a run hashes the model that it quantizes, and then the result.
        if !self.bar.is_moving(work) || done < self.passed {
            self.bar.finish();
            self.passed = 0;
        }
        let new = done.saturating_sub(self.passed);
        self.passed = done;
        self.bar.bytes(work).pass(new, of, true);
    }

    fn quantize(&mut self, event: &QuantizeEvent) {
        match event {
            QuantizeEvent::FewSamples { text, found, tokens, wanted } => self.console.note(&format!(
                "note: {} has only {found} of {wanted} windows of {tokens} tokens; a longer text gives a better result",
                text.display()
            )),
            QuantizeEvent::Begins { done, of } => {
                self.blocks = Some((Instant::now(), *done));
                let bar = self.bar.count("quantizing", *of);
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
                let bar = self.bar.count("quantizing", *of);
                bar.set(*done as u64);
                bar.note(&format!("block {done}/{of}  {}  {left:.0} s left", in_words(*error)));
            }
            QuantizeEvent::Written(passed) => self.pass("writing", passed),
        }
    }

    fn pass(&mut self, what: &str, passed: &Passed) {
        self.bar.bytes(what).pass(passed.bytes, passed.of, !passed.was_there);
    }
}

fn in_words(error: OutputError) -> String {
    let [nearest, calibrated] = [error.nearest, error.feedback].map(|error| 100.0 * error);
    format!("output error {nearest:.4} % rounded, {calibrated:.4} % calibrated")
}
