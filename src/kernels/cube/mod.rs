//! The kernels of CUDA and WGPU, written once in cubecl.

mod attention;
mod backend;
mod buffers;
#[cfg(feature = "cuda")]
mod cublas;
mod dense;
mod elementwise;
mod fused;
mod launch;
mod move_scales;
mod noise;
mod norm;
mod packed;
mod product;
mod rows;
#[cfg(test)]
mod tests;
mod unpack;

/// Stands in for cuBLAS where qzo is built without CUDA.
#[cfg(not(feature = "cuda"))]
mod cublas {
    use burn_cubecl::CubeRuntime;
    use burn_cubecl::tensor::CubeTensor;

    pub fn multiply<R: CubeRuntime>(
        _: &CubeTensor<R>,
        _: &CubeTensor<R>,
        _: &CubeTensor<R>,
    ) -> Result<(), String> {
        Err("this qzo was built without cuda".to_string())
    }

    pub fn is_open<R: CubeRuntime>(_: &R::Device) -> bool {
        false
    }
}
