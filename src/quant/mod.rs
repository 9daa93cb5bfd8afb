//! One matrix → a packed weight. Knows no file, no model and no device.
//!
//! To add a quantizer: one file beside `rtn`, one name in `config::Method` and one arm where it is used.

pub mod config;
pub mod rtn;

pub use config::{Method, QuantizeConfig};
