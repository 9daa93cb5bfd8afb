//! Estimators compute the coefficients of a step from losses at perturbed scales. They work on scalars only: the
//! caller evaluates the losses and moves the scales.
//!
//! To add an estimator, write a file here and give [`EstimatorKind`], [`Estimator`] and their `match`es a case.

mod outcome;
pub mod qzo;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::outcome::{Probe, StepOutcome};
pub use self::qzo::Qzo;
use super::direction::{Distribution, Move, ScaleMode};
use crate::error::Result;

/// Name of an estimator in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EstimatorKind {
    /// Q-SPSA with clipping of the directional derivative (arXiv 2505.13430).
    #[default]
    Qzo,
}

/// An estimator with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Estimator {
    Qzo(Qzo),
}

impl Estimator {
    /// Calls `losses` for the mean losses at +coefficient and −coefficient along each direction of the step, and
    /// computes the coefficients of the update from them.
    ///
    /// # Errors
    /// Those of `losses`, or a setting is outside its range. A loss that is NaN or infinite is no error: the outcome is
    /// then marked as skipped.
    pub fn estimate(
        &self,
        seed: u64,
        lr: f64,
        losses: &mut dyn FnMut(Move) -> Result<[f64; 2]>,
    ) -> Result<StepOutcome> {
        match self {
            Self::Qzo(qzo) => qzo.estimate(seed, lr, losses),
        }
    }

    /// ε: distance along a direction between the current scales and those of either loss.
    pub fn eps(&self) -> f64 {
        match self {
            Self::Qzo(qzo) => qzo.eps,
        }
    }

    /// Number of directions per step, their distribution, and the way in which they change a scale.
    pub fn directions(&self) -> (u32, Distribution, ScaleMode) {
        match self {
            Self::Qzo(qzo) => (qzo.probes, qzo.distribution, qzo.mode),
        }
    }
}
