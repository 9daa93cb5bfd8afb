//! Memory that a device refuses and kernels that it does not launch, as [`read`] reports them.

use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use burn_wgpu::{Wgpu, WgpuDevice, WgpuRuntime};
use cubecl::prelude::*;

use super::super::buffers::empty_like;
use crate::device::{Device, alone, for_tests};
use crate::error::Error;
use crate::kernels::read;

/// More than any device has.
const HUGE: usize = 1 << 40;

fn values(device: &WgpuDevice) -> Tensor<Wgpu, 1> {
    Tensor::from_data([1.0f32, 2.0, 3.0], device)
}

#[track_caller]
fn assert_says(error: &Error, what: &str, help: &str) {
    assert!(error.to_string().contains(what), "{error}");
    assert!(error.help().is_some_and(|h| h.contains(help)), "{error:?}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn after_a_refused_buffer_nothing_that_is_read_is_given_out() {
    alone(
        "kernels::cube::tests::faults::after_a_refused_buffer_nothing_that_is_read_is_given_out",
        "",
        &[],
        || {
            let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
            let fine = values(&device);
            assert_eq!(read(fine.clone()).unwrap(), [1.0, 2.0, 3.0]);
            let _huge = Tensor::<Wgpu, 1>::empty([HUGE], &device);
            // These values are right, but others that were computed since then may not be.
            for _ in 0..2 {
                let error = read(fine.clone() + 1.0).unwrap_err();
                assert_says(&error, &format!("refused a buffer of {} bytes", 4 * HUGE), "train.batch_size");
            }
        },
    );
}

#[test]
fn a_product_of_refused_memory_is_an_error() {
    alone("kernels::cube::tests::faults::a_product_of_refused_memory_is_an_error", "", &[], || {
        let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
        let huge = Tensor::<Wgpu, 1>::empty([HUGE], &device);
        let sum = huge.narrow(0, 0, 3) + values(&device);
        assert_says(&read(sum).unwrap_err(), "refused a buffer", "train.batch_size");
    });
}

/// Asks for more shared memory than there is.
#[cube(launch)]
fn too_large(out: &mut Array<f32>) {
    let mut shared = SharedMemory::<f32>::new(1usize << 22);
    shared[UNIT_POS as usize] = 1.0;
    sync_cube();
    out[UNIT_POS as usize] = shared[0];
}

#[test]
fn a_kernel_that_cannot_be_launched_is_an_error() {
    alone("kernels::cube::tests::faults::a_kernel_that_cannot_be_launched_is_an_error", "", &[], || {
        let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
        let like: CubeTensor<WgpuRuntime> = values(&device).into_primitive().tensor();
        let out = empty_like(&like);
        let (client, count) = (out.client.clone(), CubeCount::Static(1, 1, 1));
        too_large::launch::<WgpuRuntime>(
            &client,
            count,
            CubeDim::new_1d(3),
            out.clone().binding().into_array_arg(),
        );
        // Its bytes can be read all the same.
        let out = Tensor::<Wgpu, 1>::from_primitive(burn::tensor::TensorPrimitive::Float(out));
        assert_says(&read(out).unwrap_err(), "shared memory", "--device cpu");
        assert!(read(values(&device)).is_err());
    });
}
