//! Warnings of settings of `[train]` that change nothing, or not what they seem to.

use super::{Body, MethodKind, TrainConfig};
use crate::zo::schedule::LrScheduler;

impl TrainConfig {
    /// Warns of settings that have no effect in a run on `rows` training rows.
    pub fn warn_of_unused(&self, rows: usize) {
        let (default, schedule) = (Self::default(), self.schedule());
        if self.body == Body::None && self.body_learning_rate != default.body_learning_rate {
            tracing::warn!("train.body_learning_rate is not used without train.body = \"zo\"");
        }
        if self.min_lr_rate.is_some() && schedule.lr_scheduler_type == LrScheduler::Constant {
            tracing::warn!("train.min_lr_rate is not used: the learning rate is constant");
        }
        if schedule.warmup_steps >= self.max_steps && schedule.warmup_steps > 0 {
            tracing::warn!(
                "the run ends during its warmup of {} steps, so the learning rate never reaches its value",
                schedule.warmup_steps
            );
        }
        if self.method == MethodKind::Exact && self.max_skipped_steps != default.max_skipped_steps {
            tracing::warn!("train.max_skipped_steps is not used: a run of exact gradients goes back instead");
        }
        let generates = self.objective.is_of_answers();
        if !generates && self.max_new_tokens != default.max_new_tokens {
            tracing::warn!("train.max_new_tokens is not used: no answers are generated for the objective");
        }
        if self.command.is_none() && self.command_timeout != default.command_timeout {
            tracing::warn!("train.command_timeout is not used without train.command");
        }
        if self.batch_size > rows {
            tracing::warn!(
                "train.batch_size is {}, but there are {rows} training rows: a step takes some of them more than once",
                self.batch_size
            );
        }
    }
}
