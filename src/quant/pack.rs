//! Codes and their groups as a packed weight.

use super::coding::{CodeLevels, Coded};
use super::grid::Grid;
use super::hessian::HessianFactor;
use crate::packed::{Codebook, Levels, PackedWeight};

pub fn pack(
    [out_features, in_features]: [usize; 2],
    group_size: usize,
    levels: &CodeLevels,
    coded: Coded,
    factor: Option<&HessianFactor>,
) -> PackedWeight {
    let Coded { codes, groups, reordered } = coded;
    let (bits, levels) = match levels {
        CodeLevels::Grid(Grid { bits, symmetric: true, .. }) => (*bits, Levels::Zero(1 << (bits - 1))),
        CodeLevels::Grid(Grid { bits, .. }) => {
            (*bits, Levels::Zeros(groups.iter().map(|group| group.zero as u8).collect()))
        }
        CodeLevels::Book(book) => {
            let entries = book.entries.iter().map(|entry| *entry as f32).collect();
            (book.bits, Levels::Codebook(Codebook { width: book.width, num_codebooks: 1, entries }))
        }
    };
    let order = factor.filter(|_| reordered);
    PackedWeight {
        out_features,
        in_features,
        bits,
        group_size,
        codes,
        scales: groups.iter().map(|group| group.scale).collect(),
        levels,
        perm: order.map(|factor| factor.order.iter().map(|&feature| feature as u32).collect()),
    }
}
