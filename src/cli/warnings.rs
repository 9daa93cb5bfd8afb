//! Warnings of input that is accepted but not used, or looks like a mistake. The library gives them to
//! `tracing::warn!`; here each is printed once on standard error and kept for `--json`.

use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::stderr::to_stderr;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// All warnings of this process in order, each once.
pub fn said() -> Vec<String> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether an event is a warning of this program rather than of a library.
pub fn is_warning(event: &Metadata<'_>) -> bool {
    *event.level() == Level::WARN && event.target().split("::").next() == Some("qzo")
}

pub struct Warnings {
    /// Print no warnings; `--json` still has them.
    pub quiet: bool,
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = WarningText::default();
        event.record(&mut message);
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if said.contains(&message.0) {
            return;
        }
        if !self.quiet {
            to_stderr(&format!("warning: {}", message.0));
        }
        said.push(message.0);
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
