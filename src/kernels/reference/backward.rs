//! Backward passes as plain loops in f64, which themselves are compared with finite differences.

use burn::tensor::DType;

use super::attention::{AttentionCase, bounds, every_range, halves};
use super::elementwise::{EPS, random, types, values};
use super::weights::{CODEBOOKS, KINDS, SCALAR, SUB_BLOCKS, random_weight, shuffled};
use super::{Uniform, error_or_size, float, read, relative_error};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::kernels::{
    DeviceWeight, Kernels, attention_backward, dense_linear_backward, gate_mul_backward, linear_backward,
    rms_norm_backward, rotate, rotate_backward,
};
use crate::packed::{LevelsKind, PackedWeight};

/// Error of f32 sums of up to a few thousand terms, some of which cancel, relative to the root mean square of the result.
const TOLERANCE: f64 = 1e-5;

/// Derivative of `loss` along each of `directions` at `x`, by central differences.
fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let at = |i: usize, sign: f64| {
        let mut x = x.to_vec();
        x[i] += sign * step;
        loss(&x)
    };
    (0..x.len()).map(|i| (at(i, 1.0) - at(i, -1.0)) / (2.0 * step)).collect()
}

fn assert_near(got: &[f64], want: &[f64], what: &str) {
    let [got, size]: [f64; 2] =
        [got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum(), want.iter().map(|w| w.powi(2)).sum()];
    let error = (got / size).sqrt();
    assert!(error < 1e-7, "{what}: {error:e}");
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gradients of `Σ dy · x · Wᵀ` with respect to the input and the logarithms of the scales.
fn linear_loops(x: &[f32], dy: &[f32], weight: &PackedWeight) -> [Vec<f64>; 2] {
    let (out, input) = (weight.out_features, weight.in_features);
    let feature = |place: usize| weight.perm.as_ref().map_or(place, |perm| perm[place] as usize);
    let (mut dx, mut scales) = (vec![0.0; x.len()], vec![0.0; out * weight.groups()]);
    for ((x, dy), dx) in x.chunks(input).zip(dy.chunks(out)).zip(dx.chunks_mut(input)) {
        for (row, dy) in dy.iter().enumerate() {
            for place in 0..input {
                let (value, feature) = (f64::from(weight.value(row, place)), feature(place));
                let group = row * weight.groups() + place / weight.group_size;
                dx[feature] += f64::from(*dy) * value;
                if weight.scales[group] != 0.0 {
                    scales[group] += f64::from(*dy) * f64::from(x[feature]) * value;
                }
            }
        }
    }
    [dx, scales]
}

/// The weights with every scale multiplied by e to the power of `theta`: a group whose scale is 0 is constant.
fn moved(weight: &PackedWeight, theta: &[f64]) -> Vec<f64> {
    let value = |row: usize, place: usize| {
        let group = row * weight.groups() + place / weight.group_size;
        let factor = if weight.scales[group] == 0.0 { 1.0 } else { theta[group].exp() };
        factor * f64::from(weight.value(row, place))
    };
    (0..weight.out_features)
        .flat_map(|row| (0..weight.in_features).map(move |place| value(row, place)))
        .collect()
}

#[test]
fn the_loops_of_a_product_agree_with_finite_differences() {
    let mut rng = Uniform(61);
    for (bits, kind) in
        [(4, LevelsKind::Zeros), (4, LevelsKind::Minimum), SUB_BLOCKS_NARROW, (4, CODEBOOKS[0].1)]
    {
        let weight = random_weight(5, 24, bits, 12, kind, &mut rng);
        let (x, dy) = (rng.floats(3 * 24), rng.floats(3 * 5));
        let [dx, scales] = linear_loops(&x, &dy, &weight);
        let loss = |x: &[f64], w: &[f64]| -> f64 {
            let row =
                |t: usize, o: usize| f64::from(dy[t * 5 + o]) * dot(&x[t * 24..][..24], &w[o * 24..][..24]);
            (0..15).map(|i| row(i / 5, i % 5)).sum()
        };
        let still = vec![0.0; scales.len()];
        assert_near(&dx, &differences(&wide(&x), |x| loss(x, &moved(&weight, &still))), "input");
        assert_near(&scales, &differences(&still, |theta| loss(&wide(&x), &moved(&weight, theta))), "scales");
    }
}

const SUB_BLOCKS_NARROW: (u32, LevelsKind) = (4, LevelsKind::SubBlocks { width: 4, mins: true });

fn check_linear<B: Kernels>(
    weight: &PackedWeight,
    rows: usize,
    (compute, tolerance): (ComputeType, f64),
    rng: &mut Uniform,
    device: &B::Device,
) {
    let (out, input) = (weight.out_features, weight.in_features);
    let (x, dy) = (rng.floats(rows * input), rng.floats(rows * out));
    let want = linear_loops(&x, &dy, weight);
    let uploaded = DeviceWeight::<B>::upload(weight.clone(), Some(7), compute, device);
    let cast =
        |values: &[f32], width| float::<B, 2>(values, [rows, width], device).cast(B::tensor_type(compute));
    for wanted in [[true, true], [true, false], [false, true]] {
        let [wants_input, wants_scales] = wanted;
        let x = wants_scales.then(|| cast(&x, input));
        let (dx, scales) = linear_backward(x, [&uploaded], [cast(&dy, out)], wants_input);
        let got = [dx.map(|dx| read(dx.cast(DType::F32))), scales.map(|[scales]| read(scales))];
        assert_eq!(got.each_ref().map(Option::is_some), wanted);
        for ((got, want), what) in got.iter().zip(&want).zip(["input", "scales"]) {
            let Some(got) = got else { continue };
            let error = relative_error(got, want);
            let PackedWeight { bits, group_size, levels, .. } = weight;
            let kind = levels.kind();
            assert!(
                error < tolerance,
                "{what} {rows}×{out}×{input}/{group_size} {bits} {kind:?} {compute}: {error:e}"
            );
        }
    }
}

/// Every kind of levels at shapes that are multiples of nothing, in every type of arithmetic.
pub(super) fn linear_backward_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(62);
    let half = [(ComputeType::F16, 2e-3), (ComputeType::Bf16, 1e-2)];
    let half = half.into_iter().filter(|(compute, _)| B::supports(*compute, device));
    let computes: Vec<_> = [(ComputeType::F32, TOLERANCE)].into_iter().chain(half).collect();
    let shapes = [(1, 3, 72, 32), (5, 37, 100, 24), (18, 72, 576, 128), (2, 9, 40, 64), (33, 17, 75, 21)];
    for (i, (rows, out, input, group_size)) in shapes.into_iter().enumerate() {
        for bits in if i % 2 == 0 { [2, 4] } else { [3, 8] } {
            for kind in [i % 4, (i + 1 + bits as usize / 2) % 4].map(|kind| KINDS[kind]) {
                let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
                for compute in &computes {
                    check_linear::<B>(&weight, rows, *compute, &mut rng, device);
                }
            }
        }
    }
    let shapes = [(3, 37, 512), (20, 9, 300), (1, 70, 264)].into_iter().cycle();
    for ((bits, kind, group_size), (rows, out, input)) in SUB_BLOCKS.into_iter().zip(shapes) {
        let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
        check_linear::<B>(
            &weight,
            rows,
            computes[i32::from(computes.len() > 1 && rows > 1) as usize],
            &mut rng,
            device,
        );
    }
    let shapes = [(3, 37, 600, 72), (20, 9, 120, 48), (5, 70, 264, 96)].into_iter().cycle();
    let kinds = [(4, SCALAR), (4, LevelsKind::Zeros)].into_iter().chain(CODEBOOKS);
    for ((bits, kind), (rows, out, input, group_size)) in kinds.zip(shapes) {
        let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
        for weight in [shuffled(&weight, &mut rng), weight] {
            check_linear::<B>(&weight, rows, computes[0], &mut rng, device);
        }
    }
    // More tokens than a pass of the CPU, more rows and columns than a task.
    let weight = random_weight(300, 330, 4, 40, LevelsKind::Zeros, &mut rng);
    for compute in &computes {
        check_linear::<B>(&weight, 1301, *compute, &mut rng, device);
    }
}

/// Several weights that share an input, some of them with a perm: the gradients of the input are added.
pub(super) fn gradients_of_several_weights_add_up<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(63);
    for with_perm in [false, true] {
        let mut weights = [(37, 4, LevelsKind::Zero), (5, 6, CODEBOOKS[1].1), (64, 4, LevelsKind::Minimum)]
            .map(|(out, bits, kind)| random_weight(out, 128, bits, 64, kind, &mut rng));
        if with_perm {
            weights[0] = shuffled(&weights[0], &mut rng);
            weights[1] = shuffled(&weights[1], &mut rng);
        }
        let x = rng.floats(7 * 128);
        let dy = weights.each_ref().map(|weight| rng.floats(7 * weight.out_features));
        let mut want = vec![0.0; x.len()];
        let mut of_scales = vec![];
        for (weight, dy) in weights.iter().zip(&dy) {
            let [dx, scales] = linear_loops(&x, dy, weight);
            want.iter_mut().zip(dx).for_each(|(want, dx)| *want += dx);
            of_scales.push(scales);
        }
        let uploaded = weights
            .clone()
            .map(|weight| DeviceWeight::<B>::upload(weight, Some(1), ComputeType::F32, device));
        let dy = std::array::from_fn(|i| float::<B, 2>(&dy[i], [7, weights[i].out_features], device));
        let x = Some(float(&x, [7, 128], device));
        let (dx, scales) = linear_backward(x, uploaded.each_ref(), dy, true);
        assert!(relative_error(&read(dx.unwrap()), &want) < TOLERANCE);
        for (got, want) in scales.unwrap().into_iter().zip(of_scales) {
            assert!(relative_error(&read(got), &want) < TOLERANCE);
        }
    }
}

pub(super) fn dense_backward_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(64);
    for (rows, out, input) in [(1, 3, 72), (19, 75, 101), (5, 333, 300)] {
        let weight: Vec<f32> =
            rng.floats(out * input).iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
        let dy = rng.floats(rows * out);
        let want: Vec<f64> = (0..rows * input)
            .map(|i| {
                let (t, j) = (i / input, i % input);
                (0..out).map(|o| f64::from(dy[t * out + o]) * f64::from(weight[o * input + j])).sum()
            })
            .collect();
        for stored in [DType::F32, DType::BF16] {
            let kept = B::weight_type(stored, ComputeType::F32);
            let dense = float::<B, 2>(&weight, [out, input], device).cast(kept);
            let got = read(dense_linear_backward(float(&dy, [rows, out], device), dense));
            let error = relative_error(&got, &want);
            assert!(error < TOLERANCE, "{rows}×{out}×{input} in {kept:?}: {error:e}");
        }
    }
}

#[test]
fn the_loops_of_attention_agree_with_finite_differences() {
    let ranges = vec![[0, 0, 0, 1], [0, 0, 0, 2], [0, 2, 2, 3], [1, 2, 2, 4]];
    for cap in [None, Some(1.5)] {
        let case = AttentionCase { ranges: ranges.clone(), keys: 4, heads: 2, kv_heads: 1, head_dim: 3, cap };
        let inputs = case.inputs().map(|values| wide(&values));
        let dy = wide(&Uniform(65).floats(4 * 2 * 3));
        let gradients = case.backward(&inputs, &dy);
        for (i, gradient) in gradients.iter().enumerate() {
            let want = differences(&inputs[i], |values| {
                let mut inputs = inputs.clone();
                inputs[i] = values.to_vec();
                dot(&case.forward(&inputs), &dy)
            });
            assert_near(gradient, &want, "attention");
        }
    }
}

pub(super) fn attention_backward_matches_the_loops<B: Kernels>(device: &B::Device) {
    let (ranges, keys) = every_range();
    let narrow = [(4, 2, 16), (3, 3, 21), (9, 3, 64), (2, 1, 128), (2, 1, 252), (2, 1, 600)].map(
        |(heads, kv_heads, head_dim)| {
            let cap = (head_dim < 64).then_some(2.5);
            (
                AttentionCase { ranges: ranges.clone(), keys, heads, kv_heads, head_dim, cap },
                ComputeType::F32,
                TOLERANCE,
            )
        },
    );
    let half = [(ComputeType::F16, 4e-3), (ComputeType::Bf16, 2e-2)];
    let half = half
        .into_iter()
        .filter(|(compute, _)| B::supports(*compute, device) && B::tensor_type(*compute) != DType::F32);
    let half = half
        .flat_map(|(compute, tolerance)| halves().into_iter().map(move |case| (case, compute, tolerance)));
    for (case, compute, tolerance) in narrow.into_iter().chain(half) {
        let inputs = case.inputs();
        let dy: Vec<f32> =
            Uniform(66).floats(inputs[0].len()).iter().map(|x| (x * 128.0).round() / 128.0).collect();
        let want = case.backward(&inputs.each_ref().map(|values| wide(values)), &wide(&dy));
        let shapes = [case.shape_of_q(), case.shape_of_k(), case.shape_of_k()];
        let dtype = B::tensor_type(compute);
        let tensors = std::array::from_fn(|i| float::<B, 3>(&inputs[i], shapes[i], device).cast(dtype));
        let dy = float::<B, 3>(&dy, shapes[0], device).cast(dtype);
        let got = attention_backward(tensors, dy, &bounds::<B>(&case, device), case.scores());
        for ((got, want), name) in got.into_iter().zip(&want).zip(["dq", "dk", "dv"]) {
            let error = error_or_size(&read(got.cast(DType::F32)), want);
            assert!(error < tolerance, "{name} {compute} {case:?}: {error:e}");
        }
    }
}

fn norm_loops(x: &[f64], weight: &[f32], dy: &[f64]) -> Vec<f64> {
    let width = weight.len();
    let of_row = |(x, dy): (&[f64], &[f64])| {
        let r = 1.0 / (dot(x, x) / width as f64 + f64::from(EPS)).sqrt();
        let wdy: Vec<f64> = dy.iter().zip(weight).map(|(dy, w)| dy * f64::from(*w)).collect();
        let share = r.powi(3) / width as f64 * dot(&wdy, x);
        x.iter().zip(wdy).map(|(x, wdy)| r * wdy - share * x).collect::<Vec<_>>()
    };
    x.chunks(width).zip(dy.chunks(width)).flat_map(of_row).collect()
}

fn gate_loops(gate: &[f64], up: &[f64], dy: &[f64], activation: Activation) -> [Vec<f64>; 2] {
    let slopes = |x: f64| match activation {
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
        }
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
            let inner = root * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner)
        }
    };
    let all = || gate.iter().zip(up).zip(dy);
    [
        all().map(|((x, up), dy)| dy * up * slopes(*x).1).collect(),
        all().map(|((x, _), dy)| dy * slopes(*x).0).collect(),
    ]
}

#[test]
fn the_loops_of_norm_and_gate_agree_with_finite_differences() {
    let mut rng = Uniform(67);
    let [x, up, dy] = [0; 3].map(|_| wide(&rng.floats(12)));
    let weight = rng.floats(6);
    let normed = |x: &[f64]| -> f64 {
        let of_row = |(x, dy): (&[f64], &[f64])| {
            let r = 1.0 / (dot(x, x) / 6.0 + f64::from(EPS)).sqrt();
            (0..6).map(|i| dy[i] * x[i] * r * f64::from(weight[i])).sum::<f64>()
        };
        x.chunks(6).zip(dy.chunks(6)).map(of_row).sum()
    };
    assert_near(&norm_loops(&x, &weight, &dy), &differences(&x, normed), "norm");
    for activation in [Activation::Silu, Activation::GeluTanh] {
        // The gradient with respect to `up` at dy = 1 is the activation itself.
        let activated = |x: &[f64]| gate_loops(x, &up, &[1.0; 12], activation)[1].clone();
        let loss = |x: &[f64], up: &[f64]| -> f64 {
            activated(x).iter().zip(up).zip(&dy).map(|((a, up), dy)| a * up * dy).sum()
        };
        let [gate, of_up] = gate_loops(&x, &up, &dy, activation);
        assert_near(&gate, &differences(&x, |x| loss(x, &up)), "gate");
        assert_near(&of_up, &differences(&up, |up| loss(&x, up)), "up");
    }
}

pub(super) fn norm_gate_and_rotation_backward_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(68);
    for (dtype, tolerance) in types::<B>(device) {
        let tolerance = 4.0 * tolerance;
        for (rows, width) in [(1, 1), (19, 60), (9, 75), (5, 576), (3, 5120), (2, 40_000), (70_000, 3)] {
            let [(x, x_values), (up, up_values), (dy, dy_values)] =
                [0; 3].map(|_| random::<B, 2>(&mut rng, [rows, width], dtype, device));
            let (x_wide, up_wide, dy_wide) = (wide(&x_values), wide(&up_values), wide(&dy_values));
            let weight = rng.floats(width);
            let got = rms_norm_backward(x.clone(), float(&weight, [width], device), EPS, dy.clone());
            let want = norm_loops(&x_wide, &weight, &dy_wide);
            // In a row of one, all but the effect of eps cancels.
            if width > 1 {
                let error = relative_error(&values(got), &want);
                assert!(error < tolerance, "norm {dtype:?} {rows}×{width}: {error:e}");
            }
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let got = gate_mul_backward(x.clone(), up.clone(), dy.clone(), activation);
                for (got, want) in got.into_iter().zip(gate_loops(&x_wide, &up_wide, &dy_wide, activation)) {
                    let error = relative_error(&values(got), &want);
                    assert!(error < tolerance, "{activation:?} {dtype:?} {rows}×{width}: {error:e}");
                }
            }
            assert_eq!([x, up, dy].map(values), [x_values, up_values, dy_values], "an input was overwritten");
        }
    }
    // Turning back undoes a turn, where the angles are true ones.
    let angles: Vec<f32> = rng.floats(5 * 10).iter().map(|x| 3.0 * x).collect();
    let tables =
        || [f32::cos as fn(f32) -> f32, f32::sin].map(|f| angles.iter().map(|a| f(*a)).collect::<Vec<_>>());
    let [cos, sin] = tables().map(|table| float::<B, 2>(&table, [5, 10], device));
    let x = [(3, 24), (2, 24)].map(|(heads, dim)| rng.floats(5 * heads * dim));
    let tensors = [float::<B, 3>(&x[0], [5, 3, 24], device), float::<B, 3>(&x[1], [5, 2, 24], device)];
    let turned = rotate(tensors, cos.clone(), sin.clone());
    for (got, want) in rotate_backward(turned, cos, sin).into_iter().zip(&x) {
        assert!(relative_error(&read(got), &wide(want)) < TOLERANCE);
    }
}
