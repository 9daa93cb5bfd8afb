//! The job of quantizing a whole model: its linears are rounded as they stream by, or calibrated block by block, in a
//! workspace that a killed run goes on with.
//!
//! ```text
//! job         from a dense checkpoint to a quantized one
//! calibrate   its linears on the inputs that the quantized part of the model gives them
//! workspace   the finished part of an unfinished quantization
//! ```

mod calibrate;
mod event;
mod job;
mod workspace;

pub use event::{LinearReport, QuantizeEvent};
pub use job::{QuantizeJob, Samples, check_new, digest, quantize, samples};
