//! Packed weights of every kind, and plain products with them.

use super::Uniform;
use crate::packed::{Codebook, Levels, LevelsKind, PackedWeight, SubBlocks, put_code, words_per_row};
use crate::zo::direction::Move;

pub(super) const SCALAR: LevelsKind = LevelsKind::Codebook { width: 1, num_codebooks: 1 };
pub(super) const KINDS: [LevelsKind; 4] = [LevelsKind::Zero, LevelsKind::Zeros, LevelsKind::Minimum, SCALAR];

/// Bits, levels and groups of llama.cpp's K-quants, and sub-blocks that are odd, short or a whole group.
pub(super) const SUB_BLOCKS: [(u32, LevelsKind, usize); 7] = [
    (4, LevelsKind::SubBlocks { width: 32, mins: true }, 256),
    (5, LevelsKind::SubBlocks { width: 32, mins: true }, 256),
    (6, LevelsKind::SubBlocks { width: 16, mins: false }, 256),
    (2, LevelsKind::SubBlocks { width: 16, mins: true }, 256),
    (3, LevelsKind::SubBlocks { width: 4, mins: false }, 24),
    (8, LevelsKind::SubBlocks { width: 7, mins: true }, 21),
    (5, LevelsKind::SubBlocks { width: 48, mins: false }, 48),
];

/// Codes of single features, of vectors that fill a read and that do not, and of several codebooks.
pub(super) const CODEBOOKS: [(u32, LevelsKind); 9] = [
    (4, LevelsKind::Codebook { width: 2, num_codebooks: 1 }),
    (6, LevelsKind::Codebook { width: 2, num_codebooks: 1 }),
    (8, LevelsKind::Codebook { width: 4, num_codebooks: 1 }),
    (12, LevelsKind::Codebook { width: 4, num_codebooks: 1 }),
    (8, LevelsKind::Codebook { width: 8, num_codebooks: 2 }),
    (16, LevelsKind::Codebook { width: 8, num_codebooks: 1 }),
    (5, LevelsKind::Codebook { width: 1, num_codebooks: 3 }),
    (7, LevelsKind::Codebook { width: 6, num_codebooks: 2 }),
    (1, LevelsKind::Codebook { width: 3, num_codebooks: 1 }),
];

/// A weight of random codes, scales and levels; one scale is 0.
pub(super) fn random_weight(
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
        LevelsKind::SubBlocks { width, mins } => {
            let blocks = out * input.div_ceil(width);
            let scales = (0..blocks).map(|_| (rng.word() >> 24) as i8).collect();
            let mins = mins.then(|| {
                let integers = (0..blocks).map(|_| (rng.word() >> 26) as u8).collect();
                (integers, (0..out * groups).map(|_| 8.0 * rng.float()).collect())
            });
            let zero = if mins.is_some() { 0 } else { 1 << (bits - 1) };
            Levels::SubBlocks(SubBlocks::new(width, zero, scales, mins))
        }
        LevelsKind::Codebook { width, num_codebooks } => Levels::Codebook(Codebook {
            width,
            num_codebooks,
            entries: rng.floats((num_codebooks << bits) * width),
        }),
    };
    PackedWeight {
        out_features: out,
        in_features: input,
        bits,
        group_size,
        codes,
        scales,
        levels,
        perm: None,
    }
}

/// The same weight with its features in some other order.
pub(super) fn shuffled(weight: &PackedWeight, rng: &mut Uniform) -> PackedWeight {
    let mut perm: Vec<u32> = (0..weight.in_features as u32).collect();
    perm.sort_by_cached_key(|_| rng.word());
    PackedWeight { perm: Some(perm), ..weight.clone() }
}

/// The weight with its scales moved.
pub(super) fn perturbed(weight: &PackedWeight, parameter: u32, displacement: Move) -> PackedWeight {
    let mut weight = weight.clone();
    for (i, s) in weight.scales.iter_mut().enumerate() {
        *s = displacement.apply(*s, displacement.k(parameter, i as u32));
    }
    weight
}

/// `x · Wᵀ` in f64.
pub(super) fn linear_reference(x: &[f32], weight: &PackedWeight) -> Vec<f64> {
    linear_reference_of(x, weight, |value| value)
}

/// [`linear_reference`] of weights that are rounded as given.
pub(super) fn linear_reference_of(x: &[f32], weight: &PackedWeight, round: impl Fn(f32) -> f32) -> Vec<f64> {
    let mut y = vec![];
    for x in x.chunks(weight.in_features) {
        for o in 0..weight.out_features {
            let x = |i: usize| x[weight.perm.as_ref().map_or(i, |perm| perm[i] as usize)];
            let product = |i: usize| f64::from(x(i)) * f64::from(round(weight.value(o, i)));
            y.push((0..weight.in_features).map(product).sum());
        }
    }
    y
}

/// The first half of the rows at +e, the second at −e; all unmoved where the weight is not trained.
pub(super) fn both_signs_reference(
    x: &[f32],
    weight: &PackedWeight,
    parameter: Option<u32>,
    displacement: Move,
) -> Vec<f64> {
    let signs = [displacement, displacement.reversed()];
    let moved = |displacement| parameter.map_or(weight.clone(), |id| perturbed(weight, id, displacement));
    x.chunks(x.len() / 2)
        .zip(signs)
        .flat_map(|(x, displacement)| linear_reference(x, &moved(displacement)))
        .collect()
}
