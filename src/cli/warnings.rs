//! Warnings: input that is accepted but not used, or that looks like a mistake. The library reports them with
//! `tracing::warn!`. This module prints each once on standard error and keeps it for `--json`.

use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::stderr::to_stderr;

static ISSUED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// All warnings of this process in order, without repetitions.
pub fn issued() -> Vec<String> {
    ISSUED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether an event is a warning of this program, not of a dependency.
pub fn is_warning(event: &Metadata<'_>) -> bool {
    *event.level() == Level::WARN && event.target().split("::").next() == Some("qzo")
}

/// The tracing layer that collects and prints warnings.
pub struct Warnings {
    /// Print no warnings. The output of `--json` still contains them.
    pub quiet: bool,
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = WarningText::default();
        event.record(&mut message);
        let mut issued = ISSUED.lock().unwrap_or_else(PoisonError::into_inner);
        if issued.contains(&message.0) {
            return;
        }
        if !self.quiet {
            to_stderr(&format!("warning: {}", message.0));
        }
        issued.push(message.0);
    }
}

#[derive(Default)]
struct WarningText(String);

impl Visit for WarningText {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
