//! The time of training steps and of products. Nothing is written.
//!
//! ```text
//! times    steps as training takes them, timed
//! recipe   those of a recipe
//! shape    those of a published model's shape, on random weights
//! matmul   products of activations with a packed weight
//! ```

pub mod matmul;
mod recipe;
mod shape;
mod times;

pub use recipe::{RecipeTimes, recipe};
pub use shape::{ShapeBench, ShapeTimes, shape};
