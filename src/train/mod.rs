//! Training. The loop handles no tensors: an objective gives losses, a method turns them into an update, the journal
//! makes the step durable, and the scales move. The loop reports its progress as events and prints nothing.
//!
//! ```text
//! objective      the loss over batches, as a function of the scales; text implements it for a task
//! method         the interface of a training method
//! zeroth_order   the method of the paper: forward passes alone
//! exact          gradients of a backward pass, and the optimizer that turns them into steps
//! config         the table of settings, and what follows from them
//! divergence     tells a loss that has run away
//! step           one step: losses, record, update
//! run            the loop: resume, step, evaluate, save; event and history are what it tells and knows, saving its snapshots
//! checkpoints    the tuned checkpoints at its end
//! directory      the run directory; metrics, tensorboard and snapshot are files of it, logged reads metrics
//! replay         rebuilds the tuned checkpoint from the base checkpoint and the journal
//! ```

mod checkpoints;
mod command;
mod config;
mod directory;
mod divergence;
mod event;
mod exact;
mod history;
mod logged;
mod method;
mod metrics;
mod objective;
mod optimizer;
mod replay;
mod run;
mod saving;
mod scored;
mod snapshot;
mod step;
mod tensorboard;
#[cfg(test)]
mod tests;
mod text;
mod zeroth_order;

pub use checkpoints::write_checkpoints;
pub use config::{
    Body, LearningRate, MethodKind, ObjectiveKind, ParameterKind, Parameters, TailBlocks, Trackers,
    TrainConfig,
};
pub use directory::RunDir;
pub use event::{Outcome, TrainEvent};
pub use exact::Exact;
pub use logged::{LoggedLine, read_metrics};
pub use method::{Gradient, Method, StepStart};
pub use metrics::MetricLine;
pub use objective::{LossGradients, Objective};
pub use optimizer::OptimizerKind;
pub use replay::{ReplayReport, replay};
pub use run::Run;
pub use scored::{Score, ScoredObjective};
pub use step::step;
pub use text::{TextObjective, TrainingData, batch_gradient, widest_batch};
pub use zeroth_order::ZerothOrder;
