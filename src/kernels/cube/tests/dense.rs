//! Each engine of dense products in each type on awkward shapes, in a test of its own, so that one that hangs or is wrong
//! is named. CUDA compiles dozens of kernels for each.

use burn::tensor::{DType, Tensor, TensorPrimitive};
use burn_cubecl::CubeRuntime;

use super::super::dense::multiply;
use super::super::product_form::ProductForm;
use super::tensors::{Floats, upload};
use crate::kernels::MatmulEngine;
use crate::kernels::reference::{Uniform, relative_error};

/// Products at once, m, n and k: some are multiples of nothing, some of every tile.
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
const FORMS: [ProductForm; 3] =
    [ProductForm::RightTransposed, ProductForm::Plain, ProductForm::LeftTransposed];

/// Values that every type holds exactly.
fn values(length: usize, seed: u32) -> Vec<f32> {
    Uniform(seed).floats(length).into_iter().map(|x| (x * 64.0).round() / 64.0).collect()
}

/// The transposes of matrices of `rows` rows.
fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let of_one = |matrix: &[f32]| {
        (0..rows * columns).map(|i| matrix[i % rows * columns + i / rows]).collect::<Vec<_>>()
    };
    values.chunks(rows * columns).flat_map(of_one).collect()
}

/// Checks every shape that an engine takes, and prints those it refuses.
fn is_right<R: CubeRuntime>(engine: MatmulEngine, dtype: DType, tolerance: f64, device: &R::Device) {
    let mut failures = vec![];
    for ([parts, m, n, k], form) in SHAPES.into_iter().flat_map(|shape| FORMS.map(|form| (shape, form))) {
        let (left, right) = (values(parts * m * k, 1), values(parts * n * k, 2));
        let side = |values: &[f32], [rows, columns]: [usize; 2], turn: bool| {
            let (values, shape) = match turn {
                true => (transposed(values, [rows, columns]), [parts, columns, rows]),
                false => (values.to_vec(), [parts, rows, columns]),
            };
            upload::<R>(&values, shape, dtype, device)
        };
        let [of_left, of_right] = form.transposed();
        let sides = [side(&left, [m, k], of_left), side(&right, [n, k], !of_right)];
        // Gradients of weights are summed up further.
        let out = if of_left { DType::F32 } else { dtype };
        let y = upload::<R>(&vec![f32::NAN; parts * m * n], [parts, m, n], out, device);
        let name = format!("{form:?} {dtype:?} {parts} × {m} × {n} × {k}");
        if let Err(reason) = multiply(engine, form, sides.each_ref(), &y) {
            eprintln!("SKIPPED: {name}: {reason}");
            continue;
        }
        let y = Tensor::<Floats<R>, 3>::from_primitive(TensorPrimitive::Float(y));
        let got: Vec<f32> = y.cast(DType::F32).into_data().into_vec().unwrap();
        let mut want = Vec::with_capacity(got.len());
        for (left, right) in left.chunks(m * k).zip(right.chunks(n * k)) {
            for x in left.chunks(k) {
                let dot =
                    |w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                want.extend(right.chunks(k).map(dot));
            }
        }
        let error = relative_error(&got, &want);
        if error.is_nan() || error >= tolerance {
            failures.push(format!("{name}: {error:e}"));
        }
    }
    assert!(failures.is_empty(), "{} products are wrong:\n{}", failures.len(), failures.join("\n"));
}

macro_rules! engines {
    ($($test:ident: $engine:ident, $dtype:ident within $tolerance:literal;)*) => {
        #[cfg(feature = "wgpu")]
        mod wgpu {
            use super::*;
            use crate::device::{Device, for_tests};

            #[test]
            fn units_are_right() {
                let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
                is_right::<burn_wgpu::WgpuRuntime>(MatmulEngine::Units, DType::F32, 2e-6, &device);
            }
        }

        #[cfg(feature = "cuda")]
        mod cuda {
            use super::*;
            use crate::device::{Device, for_tests};

            $(#[test]
            fn $test() {
                let Some(Device::Cuda(device)) = for_tests("cuda") else { return };
                let (engine, dtype) = (MatmulEngine::$engine, DType::$dtype);
                is_right::<cubecl::cuda::CudaRuntime>(engine, dtype, $tolerance, &device);
            })*
        }
    };
}

// Halves are rounded once, at the end.
engines! {
    cublas_is_right: Cublas, F32 within 2e-6;
    cublas_is_right_in_f16: Cublas, F16 within 1e-3;
    cublas_is_right_in_bf16: Cublas, BF16 within 8e-3;
    cmma_is_right_in_f16: Cmma, F16 within 1e-3;
    cmma_is_right_in_bf16: Cmma, BF16 within 8e-3;
    mma_is_right_in_f16: Mma, F16 within 1e-3;
    mma_is_right_in_bf16: Mma, BF16 within 8e-3;
    tma_mma_is_right_in_f16: TmaMma, F16 within 1e-3;
    tma_mma_is_right_in_bf16: TmaMma, BF16 within 8e-3;
    units_are_right: Units, F32 within 2e-6;
    units_are_right_in_f16: Units, F16 within 1e-3;
    units_are_right_in_bf16: Units, BF16 within 8e-3;
    the_naive_kernel_is_right: Naive, F32 within 2e-6;
    the_naive_kernel_is_right_in_f16: Naive, F16 within 1e-3;
    the_naive_kernel_is_right_in_bf16: Naive, BF16 within 8e-3;
}
