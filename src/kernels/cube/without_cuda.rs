//! Stands in for cuBLAS where qzo is built without CUDA.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::product_form::ProductForm;

pub fn multiply<R: CubeRuntime>(
    _: ProductForm,
    _: [&CubeTensor<R>; 2],
    _: &CubeTensor<R>,
    _: f32,
) -> Result<(), String> {
    Err("this qzo was built without cuda".to_string())
}

pub fn is_open<R: CubeRuntime>(_: &R::Device) -> bool {
    false
}

pub mod beside {
    use burn_cubecl::CubeRuntime;
    use cubecl::device::Device;
    use cubecl::device_handle::DeviceHandle;

    pub fn put<R: CubeRuntime>(device: &R::Device, task: Box<dyn FnOnce(&mut R::Server) + Send>) {
        DeviceHandle::<R::Server>::new(device.to_id()).submit(move |server| task(server));
    }

    pub fn settle<R: CubeRuntime>(_: &R::Device) {}
}
