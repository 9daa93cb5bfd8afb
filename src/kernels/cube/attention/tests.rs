//! Attention on tensor cores, on every device: where there are none, loops take their place.

use burn::tensor::{DType, Int, Tensor, TensorData, TensorPrimitive};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::backward::launch_with;
use super::tensor_cores::{self, CoreTile};
use crate::kernels::cube::buffers::empty_like;
use crate::kernels::cube::tests::tensors::{self, Floats};
use crate::kernels::reference::attention::{AttentionCase, halves};
use crate::kernels::reference::{Uniform, error_or_size, relative_error};

/// `q`, `k`, `v` and the bounds of a case.
fn upload<R: CubeRuntime>(
    case: &AttentionCase,
    inputs: &[Vec<f32>; 3],
    dtype: DType,
    device: &R::Device,
) -> [CubeTensor<R>; 4] {
    let shapes = [case.shape_of_q(), case.shape_of_k(), case.shape_of_k()];
    let [q, k, v] = std::array::from_fn(|i| tensors::upload::<R>(&inputs[i], shapes[i], dtype, device));
    let bounds = TensorData::new(case.ranges.concat(), [4 * case.ranges.len()]);
    let bounds = Tensor::<Floats<R>, 1, Int>::from_data(bounds, (device, DType::I32));
    [q, k, v, bounds.into_primitive()]
}

fn check<R: CubeRuntime>(
    case: &AttentionCase,
    dtype: DType,
    tile: CoreTile,
    tolerance: f64,
    device: &R::Device,
) {
    let tile = CoreTile { capped: case.cap.is_some(), ..tile };
    let inputs = case.inputs();
    let tensors = upload::<R>(case, &inputs, dtype, device);
    let out = empty_like(&tensors[0]);
    tensor_cores::launch(tensors, case.scores(), tile, out.clone());
    let out = Tensor::<Floats<R>, 3>::from_primitive(TensorPrimitive::Float(out)).cast(DType::F32);
    let error = relative_error(&out.into_data().into_vec().unwrap(), &case.want(&inputs));
    assert!(error < tolerance, "{dtype:?} {tile:?} {case:?}: {error:e}");
}

/// [`check`] for the backward pass.
fn check_gradients<R: CubeRuntime>(
    case: &AttentionCase,
    dtype: DType,
    tile: CoreTile,
    tolerance: f64,
    device: &R::Device,
) {
    let inputs = case.inputs();
    let dy: Vec<f32> =
        Uniform(66).floats(inputs[0].len()).iter().map(|x| (x * 128.0).round() / 128.0).collect();
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let want = case.backward(&inputs.each_ref().map(|values| wide(values)), &wide(&dy));
    let [q, k, v, bounds] = upload::<R>(case, &inputs, dtype, device);
    let dy = tensors::upload::<R>(&dy, case.shape_of_q(), dtype, device);
    let got = launch_with([q, k, v, dy], bounds, case.scores(), tile);
    for ((got, want), name) in got.into_iter().zip(&want).zip(["dq", "dk", "dv"]) {
        let got = Tensor::<Floats<R>, 3>::from_primitive(TensorPrimitive::Float(got)).cast(DType::F32);
        let error = error_or_size(&got.into_data().into_vec().unwrap(), want);
        assert!(error < tolerance, "{name}: {error:e} {dtype:?} {tile:?} {case:?}");
    }
}

/// Compares heads up to a width, by loops in blocks of several sizes, with the reference.
fn loops_match_the_reference<R: CubeRuntime>(widest: usize, types: &[(DType, f64)], device: &R::Device) {
    for (dtype, tolerance) in types.iter().copied() {
        for (case, tile) in loops::<R>(widest, dtype, CoreTile::shared_bytes, device) {
            check::<R>(&case, dtype, tile, tolerance, device);
        }
    }
}

/// [`loops_match_the_reference`] for the backward pass.
fn gradients_by_loops_match_the_reference<R: CubeRuntime>(
    widest: usize,
    types: &[(DType, f64)],
    device: &R::Device,
) {
    for (dtype, tolerance) in types.iter().copied() {
        for (case, tile) in loops::<R>(widest, dtype, CoreTile::gradient_bytes, device) {
            check_gradients::<R>(&case, dtype, tile, tolerance, device);
        }
    }
}

/// Cases with heads up to a width, in blocks of several sizes that fit the device's shared memory.
fn loops<R: CubeRuntime>(
    widest: usize,
    dtype: DType,
    bytes: fn(CoreTile, usize) -> usize,
    device: &R::Device,
) -> Vec<(AttentionCase, CoreTile)> {
    let most = R::client(device).properties().hardware.max_shared_memory_size;
    let blocks = [(4, 64), (2, 64), (4, 16), (2, 32), (2, 16), (1, 16)];
    let cases = halves().into_iter().enumerate().filter(|(_, case)| case.head_dim <= widest);
    let tiled = cases.map(|(i, case)| {
        let tile = |(warps, keys)| {
            let head_dim = case.head_dim;
            CoreTile { head_dim, warps, keys, lanes: 4, capped: false, cores: false }
        };
        let fits = |tile: &CoreTile| bytes(*tile, dtype.size()) <= most;
        let tile = blocks.into_iter().cycle().skip(i % 4).map(tile).find(fits).unwrap();
        (case, tile)
    });
    tiled.collect()
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use crate::device::{Device, for_tests};

    #[test]
    fn loops_in_place_of_tensor_cores_match_the_reference() {
        let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
        // A software device takes minutes to compile the wide ones.
        super::loops_match_the_reference::<burn_wgpu::WgpuRuntime>(64, &[(super::DType::F32, 2e-6)], &device);
    }

    #[test]
    fn gradients_by_loops_match_the_reference() {
        let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
        let types = [(super::DType::F32, 1e-5)];
        super::gradients_by_loops_match_the_reference::<burn_wgpu::WgpuRuntime>(64, &types, &device);
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use burn::tensor::DType;
    use cubecl::cuda::CudaRuntime;
    use cubecl::prelude::*;

    use super::*;
    use crate::device::{ComputeType, Device, for_tests};
    use crate::kernels::bench::time_attention;

    /// Warps and keys of a cube that could be the fastest.
    const BLOCKS: [(usize, usize); 4] = [(4, 32), (4, 64), (8, 32), (8, 64)];

    #[test]
    fn loops_in_place_of_tensor_cores_match_the_reference() {
        let Some(Device::Cuda(device)) = for_tests("cuda") else { return };
        let types = [(DType::F32, 2e-6), (DType::F16, 1e-3)];
        loops_match_the_reference::<CudaRuntime>(usize::MAX, &types, &device);
    }

    #[test]
    fn gradients_match_the_reference() {
        let Some(Device::Cuda(device)) = for_tests("cuda") else { return };
        gradients_by_loops_match_the_reference::<CudaRuntime>(64, &[(DType::F32, 1e-5)], &device);
        let client = CudaRuntime::client(&device);
        for (dtype, tolerance) in [(DType::F16, 4e-3), (DType::BF16, 2e-2)] {
            for case in halves() {
                let Some(tile) = CoreTile::of_gradients(&client, dtype, case.head_dim) else {
                    eprintln!("SKIPPED: no tensor cores for {dtype:?} heads of {}", case.head_dim);
                    continue;
                };
                check_gradients::<CudaRuntime>(&case, dtype, tile, tolerance, &device);
            }
        }
    }

    #[test]
    fn tensor_cores_match_the_reference() {
        let Some(Device::Cuda(device)) = for_tests("cuda") else { return };
        let client = CudaRuntime::client(&device);
        for (dtype, tolerance) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
            for (i, case) in halves().iter().enumerate() {
                let Some(tile) = CoreTile::of(&client, dtype, case.head_dim) else {
                    eprintln!("SKIPPED: no tensor cores for {dtype:?} heads of {}", case.head_dim);
                    continue;
                };
                check::<CudaRuntime>(case, dtype, tile, tolerance, &device);
                let (warps, keys) = BLOCKS[i % 4];
                let other = CoreTile { warps, keys, ..tile };
                if other.shared_bytes(2) <= client.properties().hardware.max_shared_memory_size {
                    check::<CudaRuntime>(case, dtype, other, tolerance, &device);
                }
            }
        }
    }

    /// Times many short sequences and one long one; `--nocapture` shows the microseconds.
    #[test]
    #[ignore = "it measures and checks nothing"]
    fn times() {
        let Some(Device::Cuda(device)) = for_tests("cuda") else { return };
        let client = CudaRuntime::client(&device);
        for (sequences, tokens) in [(16, 256), (1, 4096)] {
            let rows = sequences * tokens;
            let causal = |row| [0, 0, row / tokens * tokens, row + 1].map(|bound| bound as i32);
            let ranges = (0..rows).map(causal).collect();
            let case =
                AttentionCase { ranges, keys: rows, heads: 40, kv_heads: 40, head_dim: 128, cap: None };
            let inputs = [rows * 40 * 128; 3].map(|length| vec![0.5; length]);
            let tensors = upload::<CudaRuntime>(&case, &inputs, DType::F16, &device);
            let out = empty_like(&tensors[0]);
            let time = |launch: &dyn Fn()| {
                let mut best = f64::INFINITY;
                for count in [1, 1, 20, 20, 20] {
                    let clock = std::time::Instant::now();
                    (0..count).for_each(|_| launch());
                    cubecl::future::block_on(client.sync()).unwrap();
                    best = best.min(clock.elapsed().as_secs_f64() * 1e6 / f64::from(count));
                }
                best
            };
            let Some(tile) = CoreTile::of(&client, DType::F16, 128) else { continue };
            for (warps, keys) in BLOCKS {
                let tile = CoreTile { warps, keys, ..tile };
                let launch = || tensor_cores::launch(tensors.clone(), case.scores(), tile, out.clone());
                eprintln!("{sequences}×{tokens}: {warps} warps, {keys} keys: {:.1}", time(&launch));
            }
            let [q, k, v, bounds] = tensors.clone();
            let launch = || {
                let [q, k, v, bounds] = [&q, &k, &v, &bounds].map(Clone::clone);
                super::super::launch::launch_without(q, k, v, bounds, case.scores(), out.clone());
            };
            eprintln!("{sequences}×{tokens}: without tensor cores: {:.1}", time(&launch));
            let seconds = time_attention::<burn_cuda::Cuda>(
                [sequences, tokens],
                [40, 40, 128],
                ComputeType::F16,
                &device,
            );
            eprintln!("{sequences}×{tokens}: as the model calls it: {:.1}", seconds.unwrap() * 1e6);
        }
    }
}
