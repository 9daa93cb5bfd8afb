//! The tuned checkpoints that a run writes.

use std::path::PathBuf;

use super::run::Run;
use super::snapshot;
use crate::arch::{TensorKind, TrainedTensor};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::Scales;
use crate::storage::staging::replace_directory;

/// Writes `final/` from the model's parameters, then restores those of the best evaluation and writes `best/` from
/// them. Existing checkpoints, from before the run was continued, are replaced. `progress` is given the work, the number of
/// trained weights and tensors that are written, and of all.
///
/// # Errors
/// Those of [`Checkpoint::save_tuned`].
pub fn write_checkpoints<S: Scales + ?Sized>(
    run: &Run<'_>,
    checkpoint: &Checkpoint,
    model: &mut S,
    progress: &mut dyn FnMut(&'static str, usize, usize),
) -> Result<()> {
    let directory = run.directory;
    let of = checkpoint.trained_names().len() + model.tensors().len();
    let mut write = |model: &S, work, out: PathBuf| {
        let mut done = 0;
        let tuned = &mut |name: &str| {
            // A weight whose parts lie apart is asked for more than once.
            done = of.min(done + 1);
            progress(work, done, of);
            match TrainedTensor::find(model.tensors(), name) {
                Some(tensor) => stated(checkpoint, model, tensor),
                None => model.scales(name),
            }
        };
        replace_directory(&out, |fresh| checkpoint.save_tuned(fresh, model.tensors(), tuned))
    };
    write(model, "writing final/", directory.last())?;
    let best = snapshot::restore(&directory.best_snapshot(), model, u64::MAX, &run.header.id(), |_| true)?;
    if best.is_some() {
        write(model, "writing best/", directory.best())?;
    }
    Ok(())
}

/// The values of a trained tensor as a checkpoint states them.
fn stated<S: Scales + ?Sized>(
    checkpoint: &Checkpoint,
    model: &S,
    tensor: &TrainedTensor,
) -> Result<Vec<f32>> {
    let (values, weight) = (model.tensor(&tensor.name)?, tensor.weight());
    match tensor.kind {
        TensorKind::Minima => checkpoint.stated_minima(weight, &model.scales(weight)?, &values),
        TensorKind::Norms | TensorKind::Biases => Ok(values),
    }
}
