//! Norms, rotation and gate: in every type of activations, on inputs that may be overwritten and on inputs that
//! something else still holds.

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{TOLERANCE, Uniform, float, read, relative_error};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::kernels::{Kernels, add_rms_norm, gate_mul, rms_norm, rotate, write_rows};

pub(super) const EPS: f32 = 1e-5;

/// Each type of tensors, with the tolerance that its rounding needs.
pub(super) fn types<B: Kernels>(device: &B::Device) -> Vec<(DType, f64)> {
    let half = [(ComputeType::F16, 1e-3), (ComputeType::Bf16, 8e-3)];
    let half = half.into_iter().filter(|(compute, _)| B::supports(*compute, device));
    let half = half.map(|(compute, tolerance)| (B::tensor_type(compute), tolerance));
    [(DType::F32, TOLERANCE)].into_iter().chain(half.filter(|(dtype, _)| *dtype != DType::F32)).collect()
}

/// A tensor of random values, and these as they were rounded.
pub(super) fn random<B: Kernels, const D: usize>(
    rng: &mut Uniform,
    shape: [usize; D],
    dtype: DType,
    device: &B::Device,
) -> (Tensor<B, D>, Vec<f32>) {
    let tensor = float::<B, D>(&rng.floats(shape.iter().product()), shape, device).cast(dtype);
    let values = values(tensor.clone());
    (tensor, values)
}

pub(super) fn values<B: Kernels, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    read(tensor.cast(DType::F32))
}

/// Another tensor of the same values.
fn copied<B: Kernels, const D: usize>(tensor: &Tensor<B, D>) -> Tensor<B, D> {
    tensor.clone() * 1.0
}

/// Runs `f` on tensors that it alone holds and on tensors that are held here, too, which must not change.
fn owned_and_held<B: Kernels, const D: usize, const N: usize, const M: usize>(
    inputs: [Tensor<B, D>; N],
    f: impl Fn([Tensor<B, D>; N]) -> [Tensor<B, D>; M],
) -> [[Vec<f32>; M]; 2] {
    let before = inputs.clone().map(values);
    let held = f(inputs.clone()).map(values);
    assert_eq!(inputs.clone().map(values), before, "an input that is held was overwritten");
    [held, f(inputs).map(values)]
}

fn normed(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let of_row = |x: &[f32]| {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
        x.iter().zip(weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect::<Vec<_>>()
    };
    x.chunks(weight.len()).flat_map(of_row).collect()
}

pub(super) fn norms_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(21);
    for (dtype, tolerance) in types::<B>(device) {
        // Rows that share a cube, that fill one, that units go over several times, and that are not kept in registers;
        // more rows than one axis of a launch holds.
        for (rows, hidden) in [
            (1, 1),
            (19, 60),
            (9, 75),
            (5, 576),
            (3, 5120),
            (2, 4099),
            (2, 40_000),
            (70_000, 3),
            (33_000, 129),
        ] {
            let [(x, x_values), (y, _)] = [0; 2].map(|_| random(&mut rng, [rows, hidden], dtype, device));
            let w = rng.floats(hidden);
            let weight = || float::<B, 1>(&w, [hidden], device);
            let want = normed(&x_values, &w);
            for [got] in owned_and_held([copied(&x)], |[x]| [rms_norm(x, weight(), EPS)]) {
                let error = relative_error(&got, &want);
                assert!(error < tolerance, "{dtype:?} {rows}×{hidden}: {error:e}");
            }
            let sum = values(x.clone() + y.clone());
            let want = normed(&sum, &w);
            for [got_sum, got] in owned_and_held([x, y], |[x, y]| add_rms_norm(x, y, weight(), EPS)) {
                assert!(got_sum == sum, "{dtype:?} sum {rows}×{hidden}");
                let error = relative_error(&got, &want);
                assert!(error < tolerance, "{dtype:?} of a sum {rows}×{hidden}: {error:e}");
            }
        }
    }
}

/// The first `2 · half` elements of every head, rotated.
fn rotated(x: &[f32], cos: &[f32], sin: &[f32], [heads, dim, half]: [usize; 3]) -> Vec<f64> {
    let element = |(i, value): (usize, &f32)| {
        let (row, d) = (i / (heads * dim), i % dim);
        if d >= 2 * half {
            return f64::from(*value);
        }
        let angle = row * half + d % half;
        let other = if d < half { -f64::from(x[i + half]) } else { f64::from(x[i - half]) };
        f64::from(*value) * f64::from(cos[angle]) + other * f64::from(sin[angle])
    };
    x.iter().enumerate().map(element).collect()
}

pub(super) fn rotation_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(22);
    for (dtype, tolerance) in types::<B>(device) {
        // Heads that are rotated as a whole and in part, more vectors than units, more heads than units, many rows.
        for (rows, heads, kv_heads, dim, half) in [
            (1, 1, 1, 2, 1),
            (19, 3, 1, 20, 10),
            (5, 9, 3, 64, 32),
            (3, 40, 8, 128, 64),
            (7, 4, 2, 80, 16),
            (4, 3, 2, 15, 7),
            (2, 2, 1, 1400, 700),
            (2, 300, 100, 4, 2),
            (70_000, 1, 2, 2, 1),
        ] {
            let (q, q_values) = random::<B, 3>(&mut rng, [rows, heads, dim], dtype, device);
            let (k, k_values) = random::<B, 3>(&mut rng, [rows, kv_heads, dim], dtype, device);
            let (cos, sin) = (rng.floats(rows * half), rng.floats(rows * half));
            let angles = |x: &[f32]| float::<B, 2>(x, [rows, half], device);
            let want = [
                rotated(&q_values, &cos, &sin, [heads, dim, half]),
                rotated(&k_values, &cos, &sin, [kv_heads, dim, half]),
            ];
            for got in owned_and_held([q, k], |x| rotate(x, angles(&cos), angles(&sin))) {
                for (got, want) in got.iter().zip(&want) {
                    let error = relative_error(got, want);
                    assert!(error < tolerance, "{dtype:?} {rows}×{heads}×{dim}, {half}: {error:e}");
                }
            }
        }
    }
}

fn gated(gate: &[f32], up: &[f32], activation: Activation) -> Vec<f64> {
    let activated = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    };
    gate.iter().zip(up).map(|(x, u)| activated(f64::from(*x)) * f64::from(*u)).collect()
}

pub(super) fn gates_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(23);
    for (dtype, tolerance) in types::<B>(device) {
        for (rows, width) in [(1, 1), (19, 60), (9, 75), (5, 576), (3, 13_824), (2, 40_001), (70_000, 6)] {
            let [(gate, gate_values), (up, up_values)] =
                [0; 2].map(|_| random::<B, 2>(&mut rng, [rows, width], dtype, device));
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let want = gated(&gate_values, &up_values, activation);
                let inputs = [copied(&gate), copied(&up)];
                for [got] in owned_and_held(inputs, |[gate, up]| [gate_mul(gate, up, activation)]) {
                    let error = relative_error(&got, &want);
                    assert!(error < tolerance, "{activation:?} {dtype:?} {rows}×{width}: {error:e}");
                }
            }
        }
    }
}

/// Values of a wider tensor's columns, into a tensor that is overwritten and one that must not be.
pub(super) fn rows_are_written_to_their_places<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(25);
    for (dtype, _) in types::<B>(device) {
        // The last has more rows than one axis of a launch holds.
        for (rows, places, heads, dim) in
            [(1, 1, 1, 1), (5, 9, 3, 10), (7, 300, 2, 64), (66_000, 70_001, 1, 2)]
        {
            let (into, mut want) = random::<B, 3>(&mut rng, [places, heads, dim], dtype, device);
            let (wide, _) = random::<B, 3>(&mut rng, [rows, 2 * heads, dim], dtype, device);
            let new = wide.narrow(1, heads, heads);
            let at: Vec<i32> = (0..rows).map(|row| ((row * 11 + 3) % places) as i32).collect();
            let width = heads * dim;
            for (at, row) in at.iter().zip(values(new.clone()).chunks(width)) {
                want[*at as usize * width..][..width].copy_from_slice(row);
            }
            let at = Tensor::<B, 1, Int>::from_data(TensorData::new(at, [rows]), (device, DType::I32));
            let results = owned_and_held([into], |[into]| [write_rows(into, at.clone(), new.clone())]);
            assert!(
                results == [[want.clone()], [want]],
                "{dtype:?} {rows} of {places} rows of {heads}×{dim}"
            );
        }
    }
}

/// Rows of a wider tensor, as a product returns them for several weights at once.
pub(super) fn rows_of_a_wider_tensor_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(24);
    for (dtype, tolerance) in types::<B>(device) {
        // Columns that begin where a buffer may be bound, and where it may not.
        for (rows, width, dim) in [(5, 512, 32), (3, 30, 10)] {
            let (both, both_values) = random::<B, 2>(&mut rng, [rows, 2 * width], dtype, device);
            let part = |i| both.clone().narrow(1, i * width, width);
            let part_values = |i: usize| {
                both_values.chunks(2 * width).flat_map(|row| row[i * width..][..width].to_vec()).collect()
            };
            let [a, b]: [Vec<f32>; 2] = [0, 1].map(part_values);

            let want = gated(&a, &b, Activation::Silu);
            let error = relative_error(&values(gate_mul(part(0), part(1), Activation::Silu)), &want);
            assert!(error < tolerance, "gate {dtype:?} {rows}×{width}: {error:e}");

            let (heads, half) = (width / dim, dim / 2);
            let (cos, sin) = (rng.floats(rows * half), rng.floats(rows * half));
            let angles = |x: &[f32]| float::<B, 2>(x, [rows, half], device);
            let x = [0, 1].map(|i| part(i).reshape([rows, heads, dim]));
            let got = rotate(x, angles(&cos), angles(&sin)).map(values);
            for (got, x) in got.iter().zip([&a, &b]) {
                let error = relative_error(got, &rotated(x, &cos, &sin, [heads, dim, half]));
                assert!(error < tolerance, "rotation {dtype:?} {rows}×{width}: {error:e}");
            }
            assert_eq!(values(both.clone()), both_values, "the wider tensor was overwritten");
        }
    }
}
