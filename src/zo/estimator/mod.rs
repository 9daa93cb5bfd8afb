//! Estimators: from losses at perturbed scales to the coefficients of a step. They see scalars only; the
//! caller evaluates the losses and moves the scales.
//!
//! A new estimator is one file here, one variant of [`EstimatorKind`] and [`Estimator`], and their arms.

pub mod qzo;

use serde::{Deserialize, Serialize};

pub use self::qzo::Qzo;
use super::direction::Move;
use crate::error::Result;

/// The configuration's name of an estimator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EstimatorKind {
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
}

/// What one direction gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    pub loss_plus: f64,
    pub loss_minus: f64,
    /// d = (L₊ − L₋)/2ε before clipping.
    pub projected_grad: f64,
    /// Factor of the integer k in the update.
    pub coefficient: f32,
}

/// One step, ready to be journalled and then applied: probe i moves the scales along direction i.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    pub probes: Vec<Probe>,
    /// Something was NaN or infinite: every coefficient is 0 and the scales stay.
    pub skipped: bool,
}

impl StepOutcome {
    /// Mean of all losses.
    pub fn loss(&self) -> f64 {
        self.mean(|probe| (probe.loss_plus + probe.loss_minus) / 2.0)
    }

    /// Mean of the unclipped directional derivatives.
    pub fn projected_grad(&self) -> f64 {
        self.mean(|probe| probe.projected_grad)
    }

    pub fn is_finite(&self) -> bool {
        !self.skipped
    }

    fn mean(&self, value: impl Fn(&Probe) -> f64) -> f64 {
        self.probes.iter().map(value).sum::<f64>() / self.probes.len() as f64
    }
}
