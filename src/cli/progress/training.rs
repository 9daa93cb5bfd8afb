//! Shows the events of a training run.

use super::bars::Progress;
use crate::cli::describe::describe;
use crate::train::{Gradient, TrainEvent};

/// Shows an event. Every `logging_steps`-th step gets a line of its own; 0: no step does.
pub fn show(bar: &mut Progress, event: &TrainEvent, logging_steps: u64) {
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
                bar.note(&format!("step {step} skipped: its loss was {loss:.3}"));
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
        TrainEvent::WentBack { step, loss, to } => bar.note(&format!(
            "step {step} has a loss of {loss:.3}: back to the scales of step {to}, with half the learning rate"
        )),
        TrainEvent::Saved { step } => tracing::info!("scales of step {step} saved"),
    }
}
