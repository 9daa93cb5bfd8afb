//! The kernels of CUDA and WGPU, written once in cubecl.

mod attention;
mod backend;
mod buffers;
#[cfg(feature = "cuda")]
mod cublas;
mod dense;
mod elementwise;
mod elementwise_backward;
mod fused;
mod group_sums;
mod launch;
mod linear_backward;
mod move_scales;
mod noise;
mod norm;
mod norm_backward;
mod packed;
mod product;
mod product_form;
mod rows;
mod share;
mod transfer;
#[cfg(test)]
mod tests;
mod unpack;
/// Stands in for cuBLAS where qzo is built without CUDA.
#[cfg(not(feature = "cuda"))]
#[path = "without_cuda.rs"]
mod cublas;
