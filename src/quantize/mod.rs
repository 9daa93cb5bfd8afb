//! Quantizes a whole model. Its linears are rounded one after the other, or calibrated block by block. A workspace
//! keeps the progress, so that a killed run can continue.
//!
//! ```text
//! job         turns a dense checkpoint into a quantized one
//! calibrate   calibrates the linears on the inputs that the quantized part of the model gives them
//! workspace   keeps the finished part of an unfinished quantization
//! event       the events of a quantization
//! ```

mod calibrate;
mod event;
mod job;
mod workspace;

pub use event::{LinearReport, QuantizeEvent};
pub use job::{QuantizeJob, Samples, check_new, digest, quantize, samples};
