//! Products with packed and dense weights, and moves of the scales.

use burn::tensor::{DType, Tensor, TensorData};

use super::weights::{
    CODEBOOKS, KINDS, SCALAR, SUB_BLOCKS, both_signs_reference, linear_reference, linear_reference_of,
    perturbed, random_weight, shuffled,
};
use super::{TOLERANCE, Uniform, displacements, float, read, relative_error};
use crate::device::ComputeType;
use crate::kernels::{DeviceWeight, Kernels, apply_move, dense_linear, linear, linear_by};
use crate::packed::{Levels, LevelsKind, PackedWeight};
use crate::zo::direction::Signs;

/// Every width, kind of levels and move, at shapes that are multiples of nothing.
pub(super) fn linear_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(0);
    // rows, out, in, group: a short last group, a group wider than the row, groups across words, rows and
    // groups of odd length.
    let shapes = [(1, 3, 72, 32), (5, 37, 100, 24), (18, 72, 576, 128), (2, 9, 40, 64), (33, 17, 75, 21)];
    for (i, (rows, out, input, group_size)) in shapes.into_iter().enumerate() {
        for bits in if i % 2 == 0 { [2, 3, 4, 8] } else { [3, 5, 6, 8] } {
            // Two kinds of levels at each shape: compiling a kernel for each takes most of the time.
            for kind in [i % 4, (i + 1 + bits as usize / 2) % 4].map(|kind| KINDS[kind]) {
                let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
                let x = rng.floats(rows * input);
                for displacement in displacements() {
                    let on_device =
                        DeviceWeight::<B>::upload(weight.clone(), Some(7), ComputeType::F32, device);
                    let want = match displacement {
                        Some(displacement) => linear_reference(&x, &perturbed(&weight, 7, displacement)),
                        None => linear_reference(&x, &weight),
                    };
                    for path in B::PATHS {
                        let x = float(&x, [rows, input], device);
                        let signs = displacement.map_or(Signs::Neither, Signs::One);
                        let [got] = linear_by(*path, x, [&on_device], signs).unwrap();
                        let error = relative_error(&read(got), &want);
                        assert!(
                            error < TOLERANCE,
                            "{rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {displacement:?} {path:?}: {error:e}"
                        );
                    }
                }
            }
        }
    }
}

/// Integer scales inside a group, with every move; rows that do not fill the last group or sub-block.
pub(super) fn sub_blocks_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(222);
    let shapes = [(3, 37, 512), (20, 9, 300), (1, 70, 264)].into_iter().cycle();
    for ((bits, kind, group_size), (rows, out, input)) in SUB_BLOCKS.into_iter().zip(shapes) {
        let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
        let x = rng.floats(2 * rows * input);
        for displacement in displacements().into_iter().flatten() {
            let want = both_signs_reference(&x, &weight, Some(7), displacement);
            for path in B::PATHS {
                let on_device = DeviceWeight::<B>::upload(weight.clone(), Some(7), ComputeType::F32, device);
                let x = float(&x, [2 * rows, input], device);
                let [got] = linear_by(*path, x, [&on_device], Signs::Both(displacement)).unwrap();
                let error = relative_error(&read(got), &want);
                assert!(
                    error < TOLERANCE,
                    "{rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {displacement:?} {path:?}: {error:e}"
                );
            }
        }
    }
}

/// Codebooks of vectors, one or several, with the features in the model's order and in another.
pub(super) fn codebooks_and_perms_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(111);
    // Most often the last group is short, and the rows are of several slices on a CPU.
    let shapes = [(3, 37, 600, 72), (20, 9, 120, 48), (5, 70, 264, 96)].into_iter().cycle();
    let kinds = [(4, SCALAR), (4, LevelsKind::Zeros)].into_iter().chain(CODEBOOKS);
    for (i, ((bits, kind), (rows, out, input, group_size))) in kinds.zip(shapes).enumerate() {
        let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
        let displacement = displacements()[1 + i % 4].unwrap();
        let x = rng.floats(2 * rows * input);
        for path in B::PATHS {
            let run = |weight: &PackedWeight| {
                let weight = DeviceWeight::<B>::upload(weight.clone(), Some(7), ComputeType::F32, device);
                let x = float(&x, [2 * rows, input], device);
                let [y] = linear_by(*path, x, [&weight], Signs::Both(displacement)).unwrap();
                read(y)
            };
            let same = PackedWeight { perm: Some((0..input as u32).collect()), ..weight.clone() };
            assert_eq!(run(&same), run(&weight), "{path:?}");
            for weight in [weight.clone(), shuffled(&weight, &mut rng)] {
                let error =
                    relative_error(&run(&weight), &both_signs_reference(&x, &weight, Some(7), displacement));
                assert!(
                    error < TOLERANCE,
                    "{rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {displacement:?} {path:?}: {error:e}"
                );
            }
        }
    }
}

/// Both signs in the compute types that round: weights are rounded once, and activations before the product.
pub(super) fn linear_in_half_precision_is_within_its_rounding<B: Kernels>(device: &B::Device) {
    let mut failures = vec![];
    for (compute, tolerance) in [(ComputeType::F16, 1e-3), (ComputeType::Bf16, 8e-3)] {
        if !B::supports(compute, device) {
            eprintln!("SKIPPED: no {compute} here");
            continue;
        }
        let mut rng = Uniform(55);
        // Shapes that allow the most weights at a time, and one.
        let shapes = [(5, 37, 96, 24), (3, 7, 75, 21), (70, 200, 520, 40)].into_iter();
        let single = |shape| [(2, SCALAR), (4, LevelsKind::Zeros)].map(|(bits, kind)| (shape, bits, kind));
        let vectors = CODEBOOKS.map(|(bits, kind)| ((5, 37, 600, 48), bits, kind));
        let blocks = SUB_BLOCKS.map(|(bits, kind, group_size)| ((5, 37, 600, group_size), bits, kind));
        let all = shapes.flat_map(single).chain(vectors).chain(blocks);
        for ((rows, out, input, group_size), bits, kind) in all {
            let weight = random_weight(out, input, bits, group_size, kind, &mut rng);
            let x = rng.floats(2 * rows * input);
            let displacement = displacements()[4].unwrap();
            let want = both_signs_reference(&x, &weight, Some(7), displacement);
            let on_device = DeviceWeight::<B>::upload(weight, Some(7), compute, device);
            for path in B::PATHS {
                let x = float::<B, 2>(&x, [2 * rows, input], device).cast(B::tensor_type(compute));
                let [got] = linear_by(*path, x, [&on_device], Signs::Both(displacement)).unwrap();
                let error = relative_error(&read(got.cast(DType::F32)), &want);
                if error.is_nan() || error >= tolerance {
                    failures.push(format!(
                        "{compute} {rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {path:?}: {error:e}"
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} products are wrong:\n{}", failures.len(), failures.join("\n"));
}

/// The bf16 product against f64 on the same rounded activations. Under a displacement everything else is exact or f32, as
/// the codebooks here have few digits; without one, weights are rounded, too.
#[test]
fn bf16_rounds_the_activations_alone_under_a_displacement() {
    // A weight halfway between two numbers of bf16 may be rounded to the other one.
    const OF_ROUNDED_WEIGHTS: f64 = 1e-3;
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
    let levels = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| KINDS.map(|kind| (bits, kind)));
    let single = levels.flat_map(|(bits, kind)| shapes.map(|shape| (shape, bits, kind)));
    let vectors = CODEBOOKS.map(|(bits, kind)| ((20, 37, 600, 48), bits, kind));
    let blocks = SUB_BLOCKS.map(|(bits, kind, group_size)| ((20, 37, 600, group_size), bits, kind));
    for ((rows, out, input, group_size), bits, kind) in single.chain(vectors).chain(blocks) {
        let mut weight = random_weight(out, input, bits, group_size, kind, &mut rng);
        if let Levels::Codebook(codebook) = &mut weight.levels {
            codebook.entries.iter_mut().for_each(|entry| *entry = (*entry * 64.0).round() / 64.0);
        }
        let x: Vec<f32> =
            rng.floats(rows * input).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        for displacement in displacements() {
            let upload = weight.clone();
            let on_device = DeviceWeight::upload(upload, Some(7), ComputeType::Bf16, &device);
            let x_device = float::<burn_flex::Flex, 2>(&x, [rows, input], &device);
            let moved =
                displacement.map_or(weight.clone(), |displacement| perturbed(&weight, 7, displacement));
            let want = linear_reference(&x, &moved);
            // Words of two features cannot straddle groups; such a product stays in f32.
            let is_rounded = input.is_multiple_of(2) && weight.sub_block_size().is_multiple_of(2);
            let round = |w: f32| if is_rounded { half::bf16::from_f32(w).to_f32() } else { w };
            let cases = match displacement {
                None => vec![
                    (Signs::Neither, want, TOLERANCE),
                    (Signs::Centre, linear_reference_of(&x, &weight, round), OF_ROUNDED_WEIGHTS),
                ],
                Some(displacement) => vec![(Signs::One(displacement), want, TOLERANCE)],
            };
            for (signs, want, tolerance) in cases {
                let [got] = linear(x_device.clone(), [&on_device], signs);
                let error = relative_error(&read(got), &want);
                assert!(
                    error < tolerance,
                    "{rows}×{out}×{input}/{group_size} bits {bits} {kind:?} {signs:?}: {error:e}"
                );
            }
        }
    }
}

/// Dense weights, in each type that a checkpoint may store.
pub(super) fn a_dense_weight_matches_the_loops<B: Kernels>(device: &B::Device) {
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

/// Several weights at once, and both signs in one call: the rows of each sign see its weights.
pub(super) fn both_signs_and_several_weights_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(33);
    let ids = [Some(3), Some(4), None];
    for (rows, input, group_size) in [(1, 72, 32), (3, 128, 64), (40, 576, 64)] {
        let mut weights = [(37, 4, LevelsKind::Zero), (5, 6, CODEBOOKS[1].1), (64, 4, LevelsKind::Minimum)]
            .map(|(out, bits, kind)| random_weight(out, input, bits, group_size, kind, &mut rng));
        // Some of the weights that share an input may have a perm.
        if rows == 3 {
            weights[0] = shuffled(&weights[0], &mut rng);
            weights[1] = shuffled(&weights[1], &mut rng);
        }
        let x = rng.floats(2 * rows * input);
        for displacement in displacements().into_iter().flatten() {
            let mut id = ids.into_iter().flatten();
            let uploaded = weights
                .clone()
                .map(|weight| DeviceWeight::<B>::upload(weight, id.next(), ComputeType::F32, device));
            let got = B::PATHS.iter().flat_map(|path| {
                let x = float(&x, [2 * rows, input], device);
                linear_by(*path, x, uploaded.each_ref(), Signs::Both(displacement)).unwrap()
            });
            for ((got, weight), id) in got.zip(weights.iter().cycle()).zip(ids.into_iter().cycle()) {
                let want = both_signs_reference(&x, weight, id, displacement);
                let error = relative_error(&read(got), &want);
                assert!(error < TOLERANCE, "{rows}×{input}/{group_size} {displacement:?}: {error:e}");
            }
        }
    }
}

pub(super) fn an_untrained_weight_does_not_move<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(5);
    let weight = random_weight(8, 64, 4, 32, LevelsKind::Zero, &mut rng);
    let x = rng.floats(64);
    let on_device = DeviceWeight::<B>::upload(weight.clone(), None, ComputeType::F32, device);
    let signs = Signs::One(displacements()[1].unwrap());
    let [got] = linear(float(&x, [1, 64], device), [&on_device], signs);
    let got = read(got);
    assert!(relative_error(&got, &linear_reference(&x, &weight)) < TOLERANCE);
}

/// Bit for bit: a journal must mean the same on every device.
pub(super) fn moves_give_the_bits_of_the_definition<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(9);
    let weight = random_weight(33, 4128, 2, 24, LevelsKind::Zero, &mut rng);
    for displacement in displacements().into_iter().flatten() {
        let mut on_device = DeviceWeight::<B>::upload(weight.clone(), Some(11), ComputeType::F32, device);
        apply_move(&mut on_device, 11, displacement);
        let got: Vec<u32> = read(on_device.packed.scales).iter().map(|s| s.to_bits()).collect();
        let want: Vec<u32> =
            perturbed(&weight, 11, displacement).scales.iter().map(|s| s.to_bits()).collect();
        assert_eq!(got, want, "{displacement:?}");
    }
}
