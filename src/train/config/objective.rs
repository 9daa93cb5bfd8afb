//! The objective of a run, and its checks.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MethodKind, TrainConfig};
use crate::data::{LossKind, Task};
use crate::error::{Error, Result};
use crate::train::command::ScoreCommand;

/// The objective of a run: the loss, or a score that has no gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveKind {
    #[default]
    Loss,
    /// Share of rows whose candidate with the highest log-probability per token is right.
    Accuracy,
    /// Token-overlap F1 of generated answers.
    F1,
    /// Share of generated answers that are right.
    ExactMatch,
    /// Number that the program `command` gives each generation.
    Command,
}

impl ObjectiveKind {
    /// Whether answers are generated for it.
    pub fn is_of_answers(self) -> bool {
        !matches!(self, Self::Loss | Self::Accuracy)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::ExactMatch => "exact_match",
            Self::Command => "command",
        }
    }
}

impl TrainConfig {
    /// The program that scores generations, if there is one.
    pub fn score_command(&self) -> Option<ScoreCommand> {
        let timeout = Duration::from_secs(self.command_timeout);
        self.command.clone().map(|words| ScoreCommand { words, timeout })
    }

    /// Checks the objective's settings against each other.
    ///
    /// # Errors
    /// A score with exact gradients, and a program without its objective or the other way around.
    pub(super) fn check_objective(&self) -> Result<()> {
        if self.objective != ObjectiveKind::Loss && self.method == MethodKind::Exact {
            return Err(Error::invalid(
                format!("objective = \"{}\" has no gradient", self.objective.name()),
                "set train.method = \"zo\"",
            ));
        }
        let is_command = self.objective == ObjectiveKind::Command;
        match &self.command {
            Some(words) if words.first().is_none_or(|program| program.is_empty()) => {
                Err(Error::invalid("train.command is empty", "write the program and its arguments as a list"))
            }
            Some(_) if !is_command => Err(Error::invalid(
                format!("train.command is not used with objective = \"{}\"", self.objective.name()),
                "leave one of them out",
            )),
            None if is_command => Err(Error::invalid(
                "objective = \"command\" without a program",
                "set train.command, as in [\"python3\", \"score.py\"]",
            )),
            _ => Ok(()),
        }
    }

    /// Checks that a task has what the objective measures.
    ///
    /// # Errors
    /// Accuracy of a task without choices, or a score of generations for a task with them.
    pub fn check_task(&self, task: &Task) -> Result<()> {
        let chooses = task.loss_kind() == LossKind::Classification;
        let (is_ok, help) = match self.objective {
            ObjectiveKind::Loss => (true, ""),
            ObjectiveKind::Accuracy => (chooses, "accuracy needs choices: take f1, exact_match or a command"),
            _ => (!chooses, "answers are chosen, not generated: take objective = \"accuracy\""),
        };
        match is_ok {
            true => Ok(()),
            false => {
                let what = format!(
                    "objective = \"{}\" does not fit the task {}",
                    self.objective.name(),
                    task.name()
                );
                Err(Error::invalid(what, help))
            }
        }
    }
}
