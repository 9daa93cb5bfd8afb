//! One matrix → a packed weight. Knows no file, no model and no device.
//!
//! ```text
//! config    the settings of a run: which method, how many bits
//! options   how one matrix is quantized
//! grid      integer levels: scale and zero point of a group
//! book      levels or vectors of a codebook; learn fits one to a weight
//! hessian   the result of a calibration: the factor of GPTQ's error feedback
//! coding    weights → codes, with that feedback or to the nearest; pack makes them a packed weight
//! whole     quantizes whole matrices; rounding those whose rows arrive one after the other
//! ```
//!
//! To add a quantizer: its levels as a variant of `coding::CodeLevels`, and a [`QuantMethod`] that names them.

mod book;
mod coding;
mod config;
mod grid;
mod hessian;
mod learn;
mod options;
mod pack;
mod rounding;
mod whole;

pub use book::NF4;
pub use config::{CALIBRATION_LENGTH, QuantMethod, QuantizeConfig};
pub use options::{CodeKind, Feedback, QuantOptions};
pub use rounding::Rounding;
pub use whole::{OutputError, calibrate, quantize};

#[cfg(test)]
mod tests;
