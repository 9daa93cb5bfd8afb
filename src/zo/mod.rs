//! Zeroth-order optimization in plain scalars: the direction that a seed stands for, the step that follows from losses
//! along it, and the journal that makes a run replayable. This module uses neither tensors nor devices, and its tests
//! optimize a quadratic function.
//!
//! A new estimator is one file in `estimator/` and one arm in its `match`.

pub mod direction;
pub mod estimator;
pub mod journal;
pub mod schedule;
