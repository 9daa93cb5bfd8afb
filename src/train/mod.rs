//! Training. The loop handles no tensors: an objective gives losses, a method turns them into an update, the journal
//! makes the step durable, and the scales move. The loop reports its progress as events and prints nothing.
//!
//! ```text
//! objective      the loss over batches, as a function of the scales; text implements it for a task
//! method         the interface of a training method; zeroth_order implements the method of the paper
//! step           one step: losses, record, update
//! run            the loop: resume, step, evaluate, save
//! directory      the run directory; metrics and snapshot are two of its files
//! replay         rebuilds the tuned checkpoint from the base checkpoint and the journal
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
