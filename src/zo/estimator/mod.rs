//! Estimators: from losses at perturbed scales to the coefficients of a step. They see scalars only; the
//! caller evaluates the losses and moves the scales.
//!
//! A new estimator is one file here, one variant of [`EstimatorKind`] and [`Estimator`], and their arms.

mod outcome;
pub mod qzo;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::outcome::{Probe, StepOutcome};
pub use self::qzo::Qzo;
use super::direction::{Distribution, Move, ScaleMode};
use crate::error::Result;

/// The configuration's name of an estimator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EstimatorKind {
    /// Q-SPSA with clipping of the directional derivative (arXiv 2505.13430).
    #[default]
    Qzo,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Estimator {
    Qzo(Qzo),
}

impl Estimator {
    /// Asks `losses` for the mean losses at +coefficient and −coefficient of each perturbation it wants
    /// and says how far to go.
    ///
    /// # Errors
    /// Whatever `losses` returns, or settings that make no sense. A loss that is NaN or infinite is no
    /// error: the outcome is then skipped.
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

    /// ε: how far the losses of a direction lie from the current scales.
    pub fn eps(&self) -> f64 {
        match self {
            Self::Qzo(qzo) => qzo.eps,
        }
    }

    /// Directions per step, their distribution, and what they are added to.
    pub fn directions(&self) -> (u32, Distribution, ScaleMode) {
        match self {
            Self::Qzo(qzo) => (qzo.probes, qzo.distribution, qzo.mode),
        }
    }
}
