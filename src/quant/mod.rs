//! One matrix → a packed weight. Knows no file, no model and no device.
//!
//! To add a quantizer: one file beside `rtn`, one arm where the method is chosen.

pub mod packed;
pub mod rtn;

pub use packed::{Levels, PackedWeight};
