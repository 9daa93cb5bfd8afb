//! The snapshots of a run: writing them, and going back to the last one.

use super::event::TrainEvent;
use super::objective::Objective;
use super::run::{Run, Training};
use super::snapshot::{self, Restored};
use crate::error::{Error, Result};
use crate::zo::journal::Record;

/// How often a run goes back to its last snapshot before it gives up.
const MOST_RETURNS: u32 = 3;

impl Run<'_> {
    /// Saves the scales after `step`.
    ///
    /// # Errors
    /// An I/O error.
    pub(super) fn save<O: Objective>(
        &self,
        training: &mut Training<'_, O>,
        step: u64,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<()> {
        let (path, id) = (self.directory.snapshot(), self.header.id());
        training.snapshot = snapshot::save(&path, training.model, &training.method.state(), step, &id)?;
        self.directory.remove_interrupted()?;
        on_event(TrainEvent::Saved { step });
        Ok(())
    }

    /// Saves the scales where the run is interrupted. A run that may go back to its last snapshot keeps that one, so that
    /// the interruption changes nothing.
    pub(super) fn save_interrupted<O: Objective>(
        &self,
        training: &mut Training<'_, O>,
        step: u64,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<()> {
        if self.header.method.is_replayed() {
            return self.save(training, step, on_event);
        }
        let (path, id) = (self.directory.interrupted(), self.header.id());
        snapshot::save(&path, training.model, &training.method.state(), step, &id)?;
        on_event(TrainEvent::Saved { step });
        Ok(())
    }

    /// Restores the last snapshot, because the loss of `record` is not finite or has run away. The steps go on with half
    /// the learning rate.
    ///
    /// # Errors
    /// The run has gone back too often, or the snapshot cannot be read.
    pub(super) fn go_back<O: Objective>(
        &self,
        training: &mut Training<'_, O>,
        record: &Record,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<()> {
        let (step, loss) = (record.step + 1, record.loss());
        if training.returns > MOST_RETURNS {
            return Err(Error::diverged(
                format!(
                    "the loss is {loss:.3} in step {step}, after the learning rate was halved {MOST_RETURNS} times"
                ),
                "lower train.learning_rate, or check the data",
            ));
        }
        let path = self.directory.snapshot();
        let is_last = |restored: &Restored| restored.digest == training.snapshot;
        let restored = snapshot::restore(&path, training.model, record.step, &self.header.id(), is_last)?;
        let Some(Restored { step: to, state, .. }) = restored else {
            return Err(Error::diverged(
                format!(
                    "the loss is {loss:.3} in step {step}, and {} cannot be read to go back to it",
                    path.display()
                ),
                "lower train.learning_rate and start the run again",
            ));
        };
        training.method.restore(state)?;
        on_event(TrainEvent::WentBack { step, loss, to });
        Ok(())
    }
}
