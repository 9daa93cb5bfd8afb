//! Kernels: the arithmetic that Burn does not have. Products with packed weights under a perturbation, attention over
//! sequences of different lengths laid end to end, norms and gates, and moves of the scales.
//!
//! The only module that may use SIMD intrinsics (`cpu`) or cubecl (`cube`: CUDA and WGPU). Both are tested against the
//! plain loops in `reference`. A launch takes tensors and numbers, never a model; its device functions stand above it
//! in the same file.
//!
//! To add a kernel: a method of [`Kernels`] in `backend`, its two implementations in `cpu` and `cube`, its function in
//! `ops` (or `backward`, for the gradient of an operation), and its loops and test in `reference`.

mod activation;
mod attention;
mod backend;
mod backward;
pub mod bench;
mod cpu;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
mod gradients;
mod host;
mod matmul_path;
mod ops;
#[cfg(test)]
mod reference;
mod transfer;
mod weight;

pub use attention::{KeyRanges, Scores};
pub use backend::Kernels;
pub use backward::{
    attention_backward, dense_linear_backward, gate_mul_backward, linear_backward, rms_norm_backward,
    rotate_backward, sum_of_products,
};
pub(crate) use cpu::multiversion;
pub use gradients::{GRADIENT_SCRATCH, LinearGradients};
pub use host::{HostFloats, Reading};
pub use matmul_path::{MatmulEngine, MatmulPath};
pub use ops::{
    add, add_rms_norm, apply_move, attention, cast, dense_linear, gate_mul, gram, linear, linear_by, replay,
    rms_norm, rotate, write_rows,
};
pub use transfer::{finish, read, read_beside, read_later, settle, upload, upload_beside};
pub use weight::{DevicePacked, DeviceWeight};
