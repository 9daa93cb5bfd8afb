//! Benchmarks of training steps and of matrix products. They write nothing to disk.
//!
//! ```text
//! times    times training steps
//! recipe   the steps of a recipe
//! shape    the steps of a published model's shape, on random weights
//! matmul   products of activations with a packed weight
//! ```

pub mod matmul;
mod recipe;
mod shape;
mod times;

pub use recipe::{RecipeTimes, recipe};
pub use shape::{ShapeBench, ShapeTimes, shape};
