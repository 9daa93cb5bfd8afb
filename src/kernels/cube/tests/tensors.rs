//! Tensors of tests on a device.

use burn::tensor::{DType, Tensor, TensorData};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};

pub type Floats<R> = CubeBackend<R, f32, i32, u32>;

/// `values` as a contiguous tensor; CUDA pads rows of some widths when it uploads them.
pub fn upload<R: CubeRuntime>(
    values: &[f32],
    shape: [usize; 3],
    dtype: DType,
    device: &R::Device,
) -> CubeTensor<R> {
    let data = TensorData::new(values.to_vec(), shape);
    let tensor = Tensor::<Floats<R>, 3>::from_data(data, (device, DType::F32)).cast(dtype);
    into_contiguous(tensor.into_primitive().tensor())
}
