//! Tests of single kernels; those of all backends are in [`crate::kernels::reference`].

mod dense;
#[cfg(feature = "wgpu")]
mod faults;
#[cfg(feature = "cuda")]
mod nvrtc;
pub mod tensors;
