//! Plain loops in f64: what every kernel must compute, and the grid of awkward shapes on which each
//! backend is held against them.

use burn::tensor::{DType, Tensor, TensorData};

use super::{
    DeviceWeight, Kernels, KeyRanges, attention, dense_linear, linear, linear_by, rms_norm, rotate, silu_mul,
    step,
};
use crate::device::ComputeType;
use crate::kernels::packed::{Codebook, Levels, LevelsKind, PackedWeight, put_code, words_per_row};
use crate::zo::perturbation::{Noise, Perturb, Perturbation, ScaleMode, coefficient};
use crate::zo::philox::philox4x32_10;

/// f32 products of up to a few hundred terms, relative to the root mean square of the result.
const TOLERANCE: f64 = 2e-6;

/// Reproducible numbers without a generator crate: Philox words as uniform values in [−1, 1).
struct Uniform(u32);

impl Uniform {
    fn word(&mut self) -> u32 {
        self.0 += 1;
        philox4x32_10([self.0, 0, 0, 99], [7, 7])[0]
    }

    fn float(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.float()).collect()
    }
}

const SCALAR: LevelsKind = LevelsKind::Codebook { width: 1, books: 1 };
const KINDS: [LevelsKind; 4] = [LevelsKind::Zero, LevelsKind::Zeros, LevelsKind::Minimum, SCALAR];

/// Codes of single features, of vectors that fill a read and that do not, and of several books.
const CODEBOOKS: [(u32, LevelsKind); 9] = [
    (4, LevelsKind::Codebook { width: 2, books: 1 }),
    (6, LevelsKind::Codebook { width: 2, books: 1 }),
    (8, LevelsKind::Codebook { width: 4, books: 1 }),
    (12, LevelsKind::Codebook { width: 4, books: 1 }),
    (8, LevelsKind::Codebook { width: 8, books: 2 }),
    (16, LevelsKind::Codebook { width: 8, books: 1 }),
    (5, LevelsKind::Codebook { width: 1, books: 3 }),
    (7, LevelsKind::Codebook { width: 6, books: 2 }),
    (1, LevelsKind::Codebook { width: 3, books: 1 }),
];

fn random_weight(
    out: usize,
    input: usize,
    bits: u32,
    group_size: usize,
    kind: LevelsKind,
    rng: &mut Uniform,
) -> PackedWeight {
    let groups = input.div_ceil(group_size);
    let mut codes = vec![];
    for _ in 0..out {
        let mut row = vec![0; words_per_row(kind.codes(input), bits)];
        (0..kind.codes(input)).for_each(|i| put_code(&mut row, i, bits, rng.word() >> (32 - bits)));
        codes.extend(row);
    }
    let mut scales: Vec<f32> = (0..out * groups).map(|_| 0.02 * rng.float()).collect();
    scales[groups / 2] = 0.0;
    let levels = match kind {
        LevelsKind::Zero => Levels::Zero(1 << (bits - 1)),
        LevelsKind::Zeros => {
            Levels::Zeros((0..out * groups).map(|_| (rng.word() >> (32 - bits)) as u8).collect())
        }
        LevelsKind::Minimum => Levels::Minimum((0..out * groups).map(|_| 8.0 * rng.float()).collect()),
        LevelsKind::Codebook { width, books } => {
            Levels::Codebook(Codebook { width, books, entries: rng.floats((books << bits) * width) })
        }
    };
    PackedWeight {
        out_features: out,
        in_features: input,
        bits,
        group_size,
        codes,
        scales,
        levels,
        order: None,
    }
}

/// The same with its features in some other order.
fn shuffled(weight: &PackedWeight, rng: &mut Uniform) -> PackedWeight {
    let mut order: Vec<u32> = (0..weight.in_features as u32).collect();
    order.sort_by_cached_key(|_| rng.word());
    PackedWeight { order: Some(order), ..weight.clone() }
}

fn perturbed(weight: &PackedWeight, parameter: u32, noise: Noise) -> PackedWeight {
    let mut weight = weight.clone();
    for (i, s) in weight.scales.iter_mut().enumerate() {
        *s = noise.apply(*s, noise.k(parameter, i as u32));
    }
    weight
}

fn linear_reference(x: &[f32], weight: &PackedWeight) -> Vec<f64> {
    let mut y = vec![];
    for x in x.chunks(weight.in_features) {
        for o in 0..weight.out_features {
            let x = |i: usize| x[weight.order.as_ref().map_or(i, |order| order[i] as usize)];
            let product = |i: usize| f64::from(x(i)) * f64::from(weight.value(o, i));
            y.push((0..weight.in_features).map(product).sum());
        }
    }
    y
}

/// As many rows at +e as at −e after them; at none where the weight is not trained.
fn both_signs_reference(x: &[f32], weight: &PackedWeight, parameter: Option<u32>, noise: Noise) -> Vec<f64> {
    let signs = [noise.coefficient, -noise.coefficient].map(|e| noise.with_coefficient(e));
    let moved = |noise| parameter.map_or(weight.clone(), |id| perturbed(weight, id, noise));
    x.chunks(x.len() / 2).zip(signs).flat_map(|(x, noise)| linear_reference(x, &moved(noise))).collect()
}

fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let magnitude: f64 = want.iter().map(|w| w.powi(2)).sum();
    (error / magnitude).sqrt()
}

fn float<B: Kernels, const D: usize>(values: &[f32], shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32))
}

fn read<B: Kernels, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

fn noises() -> Vec<Option<Noise>> {
    let mut noises = vec![None];
    for kind in [Perturbation::Gaussian, Perturbation::Rademacher] {
        for mode in [ScaleMode::Absolute, ScaleMode::Relative] {
            let e = if mode == ScaleMode::Absolute { 1e-3 } else { 5e-2 };
            noises.push(Some(Noise {
                kind,
                mode,
                seed: 0x1234_5678_9abc_def0,
                probe: 2,
                coefficient: coefficient(kind, e),
            }));
        }
    }
    noises
}

/// Every width, level kind and noise, at shapes that are multiples of nothing.
fn linear_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(0);
    // rows, out, in, group: a short last group, a group wider than the row, groups across words, rows and
    // groups of odd length.
    let shapes = [(1, 3, 72, 32), (5, 37, 100, 24), (18, 72, 576, 128), (2, 9, 40, 64), (33, 17, 75, 21)];
    for (i, (rows, out, input, group_size)) in shapes.into_iter().enumerate() {
        for bits in [2, 3, 4, 8] {
            // Two kinds of levels at each shape: a kernel to compile for each is what takes the time.
            for kind in [i % 4, (i + 1 + bits as usize / 2) % 4].map(|kind| KINDS[kind]) {
                let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
                let x = rng.floats(rows * input);
                for noise in noises() {
                    let on_device =
                        DeviceWeight::<B>::upload(weight.clone(), Some(7), ComputeType::F32, device);
                    let want = match noise {
                        Some(noise) => linear_reference(&x, &perturbed(&weight, 7, noise)),
                        None => linear_reference(&x, &weight),
                    };
                    for path in B::PATHS {
                        let x = float(&x, [rows, input], device);
                        let perturb = noise.map_or(Perturb::No, Perturb::By);
                        let [got] = linear_by(*path, x, [&on_device], perturb);
                        let error = relative_error(&read(got), &want);
                        assert!(
                            error < TOLERANCE,
                            "{rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {noise:?} {path:?}: {error:e}"
                        );
                    }
                }
            }
        }
    }
}

/// Codebooks of vectors and of several books, each with its features in the model's order and in another.
fn codebooks_and_orders_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(111);
    // Most often the last group is short, and the rows are of several slices on a CPU.
    let shapes = [(3, 37, 600, 72), (20, 9, 120, 48), (5, 70, 264, 96)].into_iter().cycle();
    let kinds = [(4, SCALAR), (4, LevelsKind::Zeros)].into_iter().chain(CODEBOOKS);
    for (i, ((bits, kind), (rows, out, input, group_size))) in kinds.zip(shapes).enumerate() {
        let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
        let noise = noises()[1 + i % 4].unwrap();
        let x = rng.floats(2 * rows * input);
        for path in B::PATHS {
            let run = |weight: &PackedWeight| {
                let weight = DeviceWeight::<B>::upload(weight.clone(), Some(7), ComputeType::F32, device);
                let x = float(&x, [2 * rows, input], device);
                let [y] = linear_by(*path, x, [&weight], Perturb::BothWays(noise));
                read(y)
            };
            let same = PackedWeight { order: Some((0..input as u32).collect()), ..weight.clone() };
            assert_eq!(run(&same), run(&weight), "{path:?}");
            for weight in [weight.clone(), shuffled(&weight, &mut rng)] {
                let error = relative_error(&run(&weight), &both_signs_reference(&x, &weight, Some(7), noise));
                assert!(
                    error < TOLERANCE,
                    "{rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {noise:?} {path:?}: {error:e}"
                );
            }
        }
    }
}

/// Both signs in the compute types that round: a weight is rounded once, an activation before.
fn linear_in_half_precision_is_within_its_rounding<B: Kernels>(device: &B::Device) {
    for (compute, tolerance) in [(ComputeType::F16, 1e-3), (ComputeType::Bf16, 8e-3)] {
        if !B::supports(compute, device) {
            eprintln!("SKIPPED: no {compute} here");
            continue;
        }
        let mut rng = Uniform(55);
        // As many weights at a time as there can be, and one.
        let shapes = [(5, 37, 96, 24), (3, 7, 75, 21)].into_iter();
        let single = |shape| [(2, SCALAR), (4, LevelsKind::Zeros)].map(|(bits, kind)| (shape, bits, kind));
        let vectors = CODEBOOKS.map(|(bits, kind)| ((5, 37, 600, 48), bits, kind));
        for ((rows, out, input, group_size), bits, kind) in shapes.flat_map(single).chain(vectors) {
            let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
            let x = rng.floats(2 * rows * input);
            let noise = noises()[4].unwrap();
            let want = both_signs_reference(&x, &weight, Some(7), noise);
            let on_device = DeviceWeight::<B>::upload(weight, Some(7), compute, device);
            for path in B::PATHS {
                let x = float::<B, 2>(&x, [2 * rows, input], device).cast(B::tensor_type(compute));
                let [got] = linear_by(*path, x, [&on_device], Perturb::BothWays(noise));
                let error = relative_error(&read(got.cast(DType::F32)), &want);
                assert!(
                    error < tolerance,
                    "{compute} {rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {path:?}: {error:e}"
                );
            }
        }
    }
}

/// The bf16 product against f64 on the same rounded activations: all else in it is exact or f32, codebooks
/// of few digits among it.
#[test]
fn bf16_rounds_the_activations_alone() {
    let device = burn_flex::FlexDevice;
    if !<burn_flex::Flex as Kernels>::supports(ComputeType::Bf16, &device) {
        eprintln!("SKIPPED: this CPU has no AVX512-BF16");
        return;
    }
    let mut rng = Uniform(77);
    // Panels of 64 tokens with a rest, rows that are no multiple of the tile, wide rows, short groups.
    let shapes = [
        (1, 3, 72, 32),
        (5, 37, 100, 24),
        (130, 75, 576, 128),
        (2, 9, 40, 64),
        (65, 13, 4100, 50),
        (3, 5, 71, 7),
    ];
    let levels = [2, 3, 4, 8].into_iter().flat_map(|bits| KINDS.map(|kind| (bits, kind)));
    let single = levels.flat_map(|(bits, kind)| shapes.map(|shape| (shape, bits, kind)));
    let vectors = CODEBOOKS.map(|(bits, kind)| ((20, 37, 600, 48), bits, kind));
    for ((rows, out, input, group_size), bits, kind) in single.chain(vectors) {
        let mut weight = random_weight(out, input, bits, group_size, kind, &mut rng);
        if let Levels::Codebook(codebook) = &mut weight.levels {
            codebook.entries.iter_mut().for_each(|entry| *entry = (*entry * 64.0).round() / 64.0);
        }
        let x: Vec<f32> =
            rng.floats(rows * input).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        for noise in noises() {
            let upload = weight.clone();
            let on_device = DeviceWeight::upload(upload, Some(7), ComputeType::Bf16, &device);
            let x_device = float::<burn_flex::Flex, 2>(&x, [rows, input], &device);
            let [got] = linear(x_device, [&on_device], noise.map_or(Perturb::No, Perturb::By));
            let got = read(got);
            let moved = noise.map_or(weight.clone(), |noise| perturbed(&weight, 7, noise));
            let error = relative_error(&got, &linear_reference(&x, &moved));
            assert!(
                error < TOLERANCE,
                "{rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {noise:?}: {error:e}"
            );
        }
    }
}

/// Dense weights, in each type that a checkpoint may store.
fn a_dense_weight_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(41);
    for (rows, out, input) in [(1, 3, 72), (19, 75, 101), (5, 33, 300)] {
        let weight: Vec<f32> =
            rng.floats(out * input).iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
        let x = rng.floats(rows * input);
        let want: Vec<f64> = (0..rows * out)
            .map(|i| {
                let (x, w) = (&x[i / out * input..][..input], &weight[i % out * input..][..input]);
                x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
            })
            .collect();
        for stored in [DType::F32, DType::F16, DType::BF16] {
            let kept = B::weight_type(stored, ComputeType::F32);
            let data = TensorData::new(weight.clone(), [out, input]).convert_dtype(kept);
            let dense = Tensor::<B, 2>::from_data(data, (device, kept));
            let got = read(dense_linear(float(&x, [rows, input], device), dense));
            // An f16 has three bits more than these, but not their exponents.
            let tolerance = if kept == DType::F16 { 1e-4 } else { TOLERANCE };
            let error = relative_error(&got, &want);
            assert!(error < tolerance, "{rows}×{out}×{input} in {kept:?}: {error:e}");
        }
    }
}

/// Several weights at once, and both signs of the noise in one call: the rows of each sign see its weights.
fn both_signs_and_several_weights_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(33);
    let ids = [Some(3), Some(4), None];
    for (rows, input, group_size) in [(1, 72, 32), (3, 128, 64), (40, 576, 64)] {
        let mut weights = [(37, 4, LevelsKind::Zero), (5, 6, CODEBOOKS[1].1), (64, 4, LevelsKind::Minimum)]
            .map(|(out, bits, kind)| random_weight(out, input, bits, group_size, kind, &mut rng));
        // Of weights that share an input, some may have an order.
        if rows == 3 {
            weights[0] = shuffled(&weights[0], &mut rng);
            weights[1] = shuffled(&weights[1], &mut rng);
        }
        let x = rng.floats(2 * rows * input);
        for noise in noises().into_iter().flatten() {
            let mut id = ids.into_iter().flatten();
            let uploaded = weights
                .clone()
                .map(|weight| DeviceWeight::<B>::upload(weight, id.next(), ComputeType::F32, device));
            let got = B::PATHS.iter().flat_map(|path| {
                let x = float(&x, [2 * rows, input], device);
                linear_by(*path, x, uploaded.each_ref(), Perturb::BothWays(noise))
            });
            for ((got, weight), id) in got.zip(weights.iter().cycle()).zip(ids.into_iter().cycle()) {
                let want = both_signs_reference(&x, weight, id, noise);
                let error = relative_error(&read(got), &want);
                assert!(error < TOLERANCE, "{rows}×{input}/{group_size} {noise:?}: {error:e}");
            }
        }
    }
}

fn an_untrained_weight_ignores_the_noise<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(5);
    let weight = random_weight(8, 64, 4, 32, LevelsKind::Zero, &mut rng);
    let x = rng.floats(64);
    let on_device = DeviceWeight::<B>::upload(weight.clone(), None, ComputeType::F32, device);
    let perturb = Perturb::By(noises()[1].unwrap());
    let [got] = linear(float(&x, [1, 64], device), [&on_device], perturb);
    let got = read(got);
    assert!(relative_error(&got, &linear_reference(&x, &weight)) < TOLERANCE);
}

/// Bit for bit: a journal must mean the same on every device.
fn steps_give_the_bits_of_the_definition<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(9);
    let weight = random_weight(33, 4128, 2, 24, LevelsKind::Zero, &mut rng);
    for noise in noises().into_iter().flatten() {
        let mut on_device = DeviceWeight::<B>::upload(weight.clone(), Some(11), ComputeType::F32, device);
        step(&mut on_device, 11, noise);
        let got: Vec<u32> = read(on_device.scales).iter().map(|s| s.to_bits()).collect();
        let want: Vec<u32> = perturbed(&weight, 11, noise).scales.iter().map(|s| s.to_bits()).collect();
        assert_eq!(got, want, "{noise:?}");
    }
}

fn attention_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(3);
    // Two packed sequences, one with a window, rows that continue a prefix, and one that sees everything.
    let ranges = [
        [0, 0, 0, 1],
        [0, 0, 0, 2],
        [0, 0, 1, 3],
        [0, 3, 3, 4],
        [0, 3, 3, 5],
        [1, 2, 4, 6],
        [0, 0, 4, 7],
        [0, 4, 4, 9],
    ];
    // Long ones after them: more rows and keys than any tile, the second of them behind a prefix.
    let long = (0..70).map(|t| [0, 0, 9, 10 + t]).chain((0..45).map(|t| [9, 50, 79, 80 + t]));
    let ranges: Vec<[i32; 4]> = ranges.into_iter().chain(long).collect();
    for (heads, kv_heads, dim) in [(4, 2, 16), (3, 3, 21), (9, 3, 64), (2, 1, 128), (2, 1, 252), (1, 1, 600)]
    {
        let (t, s, scale) = (ranges.len(), 124, 0.3f32);
        let (q, k, v) =
            (rng.floats(t * heads * dim), rng.floats(s * kv_heads * dim), rng.floats(s * kv_heads * dim));
        let bounds: Vec<i32> = ranges.concat();
        let keys = KeyRanges::<B> {
            bounds: Tensor::from_data(TensorData::new(bounds, [4 * t]), (device, DType::I32)),
        };
        let kv = |x: &[f32]| float::<B, 3>(x, [s, kv_heads, dim], device);
        let got = read(attention(float(&q, [t, heads, dim], device), kv(&k), kv(&v), &keys, scale));
        let mut want = vec![];
        for (row, range) in ranges.iter().enumerate() {
            for head in 0..heads {
                let at = |key: usize, i: usize| (key * kv_heads + head / (heads / kv_heads)) * dim + i;
                let q = &q[(row * heads + head) * dim..][..dim];
                let [a, b, c, d] = range.map(|bound| bound as usize);
                let keys = (a..b).chain(c..d);
                let score =
                    |key: usize| (0..dim).map(|i| f64::from(q[i]) * f64::from(k[at(key, i)])).sum::<f64>();
                let p: Vec<f64> = keys.clone().map(|key| (f64::from(scale) * score(key)).exp()).collect();
                let sum: f64 = p.iter().sum();
                want.extend((0..dim).map(|i| {
                    keys.clone().zip(&p).map(|(key, p)| p * f64::from(v[at(key, i)])).sum::<f64>() / sum
                }));
            }
        }
        let error = relative_error(&got, &want);
        assert!(error < TOLERANCE, "{heads}/{kv_heads} heads of {dim}: {error:e}");
    }
}

fn norm_rotation_and_gate_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(21);
    for (rows, heads, dim) in [(1, 1, 2), (19, 3, 20), (5, 9, 64)] {
        let hidden = heads * dim;
        let (x, up, w) = (rng.floats(rows * hidden), rng.floats(rows * hidden), rng.floats(hidden));
        let wide = |x: &[f32]| float::<B, 2>(x, [rows, hidden], device);

        let got = read(rms_norm(wide(&x), float(&w, [hidden], device), 1e-5));
        let mut want = vec![];
        for x in x.chunks(hidden) {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / hidden as f64;
            want.extend(x.iter().zip(&w).map(|(x, w)| f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w)));
        }
        assert!(relative_error(&got, &want) < TOLERANCE, "norm {rows}×{hidden}");

        let got = read(silu_mul(wide(&x), wide(&up)));
        let silu = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
        let want: Vec<f64> = x.iter().zip(&up).map(|(x, u)| silu(*x) * f64::from(*u)).collect();
        assert!(relative_error(&got, &want) < TOLERANCE, "gate {rows}×{hidden}");

        let half = dim / 2;
        let (cos, sin) = (rng.floats(rows * half), rng.floats(rows * half));
        let angles = |x: &[f32]| float::<B, 2>(x, [rows, half], device);
        let got = read(rotate(float::<B, 3>(&x, [rows, heads, dim], device), angles(&cos), angles(&sin)));
        let want: Vec<f64> = (0..x.len())
            .map(|i| {
                let (t, d) = (i / hidden, i % dim);
                let (c, s) = (f64::from(cos[t * half + d % half]), f64::from(sin[t * half + d % half]));
                let other = if d < half { -f64::from(x[i + half]) } else { f64::from(x[i - half]) };
                f64::from(x[i]) * c + other * s
            })
            .collect();
        assert!(relative_error(&got, &want) < TOLERANCE, "rotation {rows}×{heads}×{dim}");
    }
}

macro_rules! on {
    ($name:ident, $spec:expr, $pattern:pat => $backend:ty, $device:expr) => {
        mod $name {
            fn run(test: fn(&<$backend as burn::tensor::backend::BackendTypes>::Device)) {
                let $pattern = ($spec) else { return };
                test(&$device)
            }
            #[test]
            fn linear_matches_the_loops() {
                run(super::linear_matches_the_loops::<$backend>)
            }
            #[test]
            fn codebooks_and_orders_match_the_loops() {
                run(super::codebooks_and_orders_match_the_loops::<$backend>)
            }
            #[test]
            fn a_dense_weight_matches_the_loops() {
                run(super::a_dense_weight_matches_the_loops::<$backend>)
            }
            #[test]
            fn both_signs_and_several_weights_match_the_loops() {
                run(super::both_signs_and_several_weights_match_the_loops::<$backend>)
            }
            #[test]
            fn linear_in_half_precision_is_within_its_rounding() {
                run(super::linear_in_half_precision_is_within_its_rounding::<$backend>)
            }
            #[test]
            fn an_untrained_weight_ignores_the_noise() {
                run(super::an_untrained_weight_ignores_the_noise::<$backend>)
            }
            #[test]
            fn steps_give_the_bits_of_the_definition() {
                run(super::steps_give_the_bits_of_the_definition::<$backend>)
            }
            #[test]
            fn norm_rotation_and_gate_match_the_loops() {
                run(super::norm_rotation_and_gate_match_the_loops::<$backend>)
            }
            #[test]
            fn attention_matches_the_loops() {
                run(super::attention_matches_the_loops::<$backend>)
            }
        }
    };
}

on!(cpu, Some(()), Some(()) => burn_flex::Flex, burn_flex::FlexDevice);
#[cfg(feature = "wgpu")]
on!(wgpu, crate::device::for_tests("wgpu"), Some(crate::device::Device::Wgpu(device)) => burn_wgpu::Wgpu, device);
#[cfg(feature = "cuda")]
on!(cuda, crate::device::for_tests("cuda"), Some(crate::device::Device::Cuda(device)) => burn_cuda::Cuda, device);
