//! Zeroth-order optimization in plain scalars: which noise a seed means, what two losses say about a
//! direction, and the journal that makes a run replayable. No tensor and no device is known here: all of it is
//! tested on a quadratic.
//!
//! A new estimator is one file in `estimator/` and one arm in its `match`.

pub mod direction;
pub mod estimator;
pub mod journal;
pub mod schedule;
