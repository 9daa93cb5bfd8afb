//! The zeroth-order method: an estimator turns losses at perturbed scales into moves along the same directions.

use super::method::{Gradient, Method, StepStart};
use super::objective::Objective;
use crate::data::LossSum;
use crate::error::{Error, Result};
use crate::zo::direction::Signs;
use crate::zo::estimator::Estimator;
use crate::zo::journal::{JournalMethod, Record, StepTaken};

/// The zeroth-order method of training.
pub struct ZerothOrder {
    pub estimator: Estimator,
}

impl<O: Objective + ?Sized> Method<O> for ZerothOrder {
    fn journal_method(&self) -> JournalMethod {
        let (probes, distribution, mode) = self.estimator.directions();
        JournalMethod::Zo { probes, distribution, mode }
    }

    fn take(
        &mut self,
        now: StepStart,
        objective: &O,
        model: &mut O::Model,
        batches: &[O::Batch],
    ) -> Result<Record> {
        let outcome = self.estimator.estimate(now.seed, now.learning_rate, &mut |each| {
            let mut sums = [LossSum::default(); 2];
            for batch in batches {
                let losses = objective.losses(model, batch, Signs::Both(each))?;
                let [plus, minus] = losses[..] else {
                    return Err(Error::internal(format!("got {} losses for two signs", losses.len())));
                };
                sums = [sums[0] + plus, sums[1] + minus];
            }
            Ok(sums.map(LossSum::mean))
        })?;
        Ok(Record::of_probes(now.step, now.seed, now.data_cursor, &outcome))
    }

    fn gradient(&self, record: &Record) -> Result<Gradient> {
        let StepTaken::Zo { probes, .. } = &record.taken else {
            return Err(Error::internal(format!(
                "the record of step {} is not of zeroth order",
                record.step + 1
            )));
        };
        let eps = self.estimator.eps();
        let sum = probes.iter().map(|p| (p.loss_plus - p.loss_minus) / (2.0 * eps)).sum::<f64>();
        Ok(Gradient::Projected(sum / probes.len() as f64))
    }

    fn passes(&self) -> f64 {
        let (probes, ..) = self.estimator.directions();
        2.0 * f64::from(probes)
    }
}
