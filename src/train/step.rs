//! One training step. Training, benchmarks and tests all use this one.

use super::method::{Method, StepStart};
use super::objective::Objective;
use crate::error::Result;
use crate::model::{Scales, Update};
use crate::zo::journal::Record;

/// Takes a step: the method computes the record, `journal` makes it durable, then the moves that follow from it are
/// applied.
///
/// # Errors
/// The device or `journal` fails. The scales have not moved then, unless the method itself updates them.
pub fn step<O: Objective>(
    method: &mut dyn Method<O>,
    objective: &O,
    model: &mut O::Model,
    batches: &[O::Batch],
    now: StepStart,
    journal: &mut dyn FnMut(&Record) -> Result<()>,
) -> Result<Record> {
    let record = method.take(now, objective, model, batches)?;
    journal(&record)?;
    let moves = method.journal_method().moves(&record);
    model.apply(Update::Moves(&moves))?;
    Ok(record)
}
