//! From "cuda:0", "wgpu", "cpu" or "auto" to a backend that was seen to work.
//!
//! The only module that knows which backends this binary was built with. Everything is probed before a backend is
//! touched, because the loaders of drivers panic if a library is missing.

mod absent;
#[cfg(feature = "wgpu")]
mod adapter;
mod backend;
#[cfg(feature = "cuda")]
mod cuda;
mod dtype;
pub mod faults;
pub mod host;
mod open;
pub mod pools;
pub mod report;
mod spec;
#[cfg(test)]
mod testing;

pub use backend::Device;
pub(crate) use backend::with_backend;
#[cfg(feature = "cuda")]
pub use cuda::{CudaLibrary, Version, cuda_library};
pub use dtype::{ComputeType, DtypeSpec};
pub use open::{cuda_libraries, cuda_path_to_set, survey};
pub use spec::DeviceSpec;
#[cfg(test)]
pub use testing::{alone, for_tests};
