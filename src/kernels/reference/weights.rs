//! Packed weights of every kind, and what a product with one is.

use super::Uniform;
use crate::packed::{
    BlockMinima, Blocks, Codebook, Levels, LevelsKind, PackedWeight, put_code, words_per_row,
};
use crate::zo::direction::Move;

pub(super) const SCALAR: LevelsKind = LevelsKind::Codebook { width: 1, books: 1 };
pub(super) const KINDS: [LevelsKind; 4] = [LevelsKind::Zero, LevelsKind::Zeros, LevelsKind::Minimum, SCALAR];

/// Bits, levels and groups of the K-quants of llama.cpp, and blocks that are odd, short or a whole group.
pub(super) const BLOCKS: [(u32, LevelsKind, usize); 7] = [
    (4, LevelsKind::Blocks { width: 32, minima: true }, 256),
    (5, LevelsKind::Blocks { width: 32, minima: true }, 256),
    (6, LevelsKind::Blocks { width: 16, minima: false }, 256),
    (2, LevelsKind::Blocks { width: 16, minima: true }, 256),
    (3, LevelsKind::Blocks { width: 4, minima: false }, 24),
    (8, LevelsKind::Blocks { width: 7, minima: true }, 21),
    (5, LevelsKind::Blocks { width: 48, minima: false }, 48),
];

/// Codes of single features, of vectors that fill a read and that do not, and of several books.
pub(super) const CODEBOOKS: [(u32, LevelsKind); 9] = [
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
        LevelsKind::Blocks { width, minima } => {
            let blocks = out * input.div_ceil(width);
            let factors = (0..blocks).map(|_| (rng.word() >> 24) as i8).collect();
            let minima = minima.then(|| BlockMinima {
                minima: (0..blocks).map(|_| (rng.word() >> 26) as u8).collect(),
                units: (0..out * groups).map(|_| 8.0 * rng.float()).collect(),
            });
            let zero = if minima.is_some() { 0 } else { 1 << (bits - 1) };
            Levels::Blocks(Blocks { width, zero, factors, minima })
        }
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
pub(super) fn shuffled(weight: &PackedWeight, rng: &mut Uniform) -> PackedWeight {
    let mut order: Vec<u32> = (0..weight.in_features as u32).collect();
    order.sort_by_cached_key(|_| rng.word());
    PackedWeight { order: Some(order), ..weight.clone() }
}

pub(super) fn perturbed(weight: &PackedWeight, parameter: u32, noise: Move) -> PackedWeight {
    let mut weight = weight.clone();
    for (i, s) in weight.scales.iter_mut().enumerate() {
        *s = noise.apply(*s, noise.k(parameter, i as u32));
    }
    weight
}

pub(super) fn linear_reference(x: &[f32], weight: &PackedWeight) -> Vec<f64> {
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
pub(super) fn both_signs_reference(
    x: &[f32],
    weight: &PackedWeight,
    parameter: Option<u32>,
    noise: Move,
) -> Vec<f64> {
    let signs = [noise, noise.reversed()];
    let moved = |noise| parameter.map_or(weight.clone(), |id| perturbed(weight, id, noise));
    x.chunks(x.len() / 2).zip(signs).flat_map(|(x, noise)| linear_reference(x, &moved(noise))).collect()
}
