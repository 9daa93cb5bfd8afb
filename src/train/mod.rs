//! Training. The loop owns no tensor: an objective gives losses, a method turns them into an update, the journal makes
//! the step durable, and the scales move. Everything that happens is told as events; nothing is printed here.
//!
//! ```text
//! objective      what is trained, and what for: a loss over batches, as a function of scales; text is a task's
//! method         how a step is taken; zeroth_order is the one of the paper
//! step           the step: losses, record, update
//! run            the loop: resume, step, evaluate, save
//! directory      where each part of a run lies; metrics, snapshot two of its files
//! replay         from base checkpoint and journal to the tuned checkpoint
//! ```

mod config;
mod directory;
mod method;
mod metrics;
mod objective;
mod replay;
mod run;
mod snapshot;
mod step;
#[cfg(test)]
mod tests;
mod text;
mod zeroth_order;

pub use config::{MethodKind, TrainConfig};
pub use directory::RunDir;
pub use method::{Gradient, Method, StepStart};
pub use metrics::MetricLine;
pub use objective::Objective;
pub use replay::{ReplayReport, replay};
pub use run::{Outcome, Run, TrainEvent, write_checkpoints};
pub use step::step;
pub use text::{TextObjective, TrainingData, widest_batch};
pub use zeroth_order::ZerothOrder;
