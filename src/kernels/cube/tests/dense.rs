//! Each engine of dense products on awkward shapes, in a test of its own, so that one that hangs or is wrong is named.

use burn::tensor::{DType, Tensor, TensorPrimitive};
use burn_cubecl::CubeRuntime;

use super::super::dense::multiply;
use super::tensors::{Floats, upload};
use crate::kernels::MatmulEngine;
use crate::kernels::reference::{Uniform, relative_error};

/// Products at once, rows, out_features and in_features: some are multiples of nothing, some of every tile.
const SHAPES: [[usize; 4]; 8] = [
    [1, 5, 37, 96],
    [1, 3, 7, 75],
    [2, 70, 200, 520],
    [2, 1, 128, 256],
    [2, 33, 576, 192],
    [1, 256, 512, 1024],
    [1, 300, 1536, 576],
    [2, 1024, 640, 768],
];

/// Values that every type holds exactly.
fn values(length: usize, seed: u32) -> Vec<f32> {
    Uniform(seed).floats(length).into_iter().map(|x| (x * 64.0).round() / 64.0).collect()
}

/// Checks every shape that an engine takes, and prints those it refuses.
fn is_right<R: CubeRuntime>(engine: MatmulEngine, types: &[(DType, f64)], device: &R::Device) {
    let mut failures = vec![];
    for (dtype, tolerance) in types.iter().copied() {
        for [parts, rows, out, input] in SHAPES {
            let (x, w) = (values(parts * rows * input, 1), values(parts * out * input, 2));
            let on_device = [
                upload::<R>(&x, [parts, rows, input], dtype, device),
                upload::<R>(&w, [parts, out, input], dtype, device),
            ];
            let y = upload::<R>(&vec![f32::NAN; parts * rows * out], [parts, rows, out], dtype, device);
            if let Err(reason) = multiply(engine, &on_device[0], &on_device[1], &y) {
                eprintln!("SKIPPED: {dtype:?} {parts} × {rows} × {out} × {input}: {reason}");
                continue;
            }
            let y = Tensor::<Floats<R>, 3>::from_primitive(TensorPrimitive::Float(y));
            let got: Vec<f32> = y.cast(DType::F32).into_data().into_vec().unwrap();
            let mut want = Vec::with_capacity(got.len());
            for (x, w) in x.chunks(rows * input).zip(w.chunks(out * input)) {
                for x in x.chunks(input) {
                    let dot =
                        |w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                    want.extend(w.chunks(input).map(dot));
                }
            }
            let error = relative_error(&got, &want);
            if error.is_nan() || error >= tolerance {
                failures.push(format!("{dtype:?} {parts} × {rows} × {out} × {input}: {error:e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} products are wrong:\n{}", failures.len(), failures.join("\n"));
}

macro_rules! engines {
    ($($test:ident: $engine:ident,)*) => {
        #[cfg(feature = "wgpu")]
        mod wgpu {
            use super::*;
            use crate::device::{Device, for_tests};

            #[test]
            fn units_are_right() {
                let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
                is_right::<burn_wgpu::WgpuRuntime>(MatmulEngine::Units, &[(DType::F32, 2e-6)], &device);
            }
        }

        #[cfg(feature = "cuda")]
        mod cuda {
            use super::*;
            use crate::device::{Device, for_tests};

            $(#[test]
            fn $test() {
                let Some(Device::Cuda(device)) = for_tests("cuda") else { return };
                // Rounded once, at the end.
                let types = [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::BF16, 8e-3)];
                is_right::<cubecl::cuda::CudaRuntime>(MatmulEngine::$engine, &types, &device);
            })*
        }
    };
}

engines! {
    cublas_is_right: Cublas,
    cmma_is_right: Cmma,
    mma_is_right: Mma,
    tma_mma_is_right: TmaMma,
    units_are_right: Units,
    the_naive_kernel_is_right: Naive,
}
