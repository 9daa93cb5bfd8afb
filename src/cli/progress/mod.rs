//! Shows the events of a job as progress on standard error.

mod bars;
mod current;
mod reporter;
mod rows;
mod training;

pub use reporter::Reporter;
