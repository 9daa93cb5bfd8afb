//! One training step: the only one there is, for training, benchmarks and tests.

use super::method::{Method, StepStart};
use super::objective::Objective;
use crate::error::Result;
use crate::model::{Scales, Update};
use crate::zo::journal::Record;

/// Takes a step: the method's losses and updates, the record made durable by `journal`, then the moves that follow
/// from it.
///
/// # Errors
/// The device or `journal` fails. The scales have not moved then, unless the method updates them itself.
pub fn step<O: Objective>(
    method: &mut dyn Method<O>,
    objective: &O,
    model: &mut O::Model,
    batch: &O::Batch,
    now: StepStart,
    journal: &mut dyn FnMut(&Record) -> Result<()>,
) -> Result<Record> {
    let record = method.take(now, objective, model, batch)?;
    journal(&record)?;
    let moves = method.recorded().moves(&record);
    model.apply(Update::Moves(&moves))?;
    Ok(record)
}
