//! The job of quantizing a whole model: rounding its linears as they stream by, or calibrating them block by block,
//! in a workspace that a killed run goes on with.

mod calibrate;
mod workspace;

pub use calibrate::{Calibration, Event, LinearReport, check_memory};
pub use workspace::Workspace;
