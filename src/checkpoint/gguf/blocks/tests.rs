use half::f16;

use super::*;
use crate::packed::{PackedWeight, words_per_row};

/// Rows of several random blocks: repacked codes give the same values as expansion, and new scales change no other byte.
#[test]
fn blocks_of_every_type_survive_repacking_and_rescaling() {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(0x915f_77f5).wrapping_add(1);
        (state >> 24) as u8
    };
    let kinds: Vec<GgmlType> = (0..64).filter_map(GgmlType::from_id).collect();
    let blocks: Vec<_> = kinds.iter().filter_map(|kind| Some((*kind, kind.block()?))).collect();
    assert_eq!(blocks.len(), 10);
    for (kind, layout) in blocks {
        assert!(GgmlType::READABLE.split(", ").any(|name| name == kind.to_string()), "{kind}");
        let (rows, width) = (3, 3 * layout.elements);
        let mut bytes: Vec<u8> = (0..rows * 3 * layout.bytes).map(|_| random()).collect();
        for (i, block) in bytes.chunks_exact_mut(layout.bytes).enumerate() {
            let floats = [0.5 - i as f32 / 8.0, 0.75].map(|float| f16::from_f32(float).to_le_bytes());
            let range = layout.floats();
            block[range.clone()].copy_from_slice(&floats.as_flattened()[..range.len()]);
        }
        let stride = bytes.len() / rows;
        let (scales, levels) = kind.scales(bytes.chunks_exact(stride)).unwrap();
        let mut codes = vec![0; rows * words_per_row(width, layout.bits)];
        let words = codes.len() / rows;
        for (row, codes) in bytes.chunks_exact(stride).zip(codes.chunks_exact_mut(words)) {
            kind.repack_into(row, codes);
        }
        let weight = PackedWeight {
            out_features: rows,
            in_features: width,
            bits: layout.bits,
            group_size: layout.elements,
            codes,
            scales: scales.clone(),
            levels,
            perm: None,
        };
        weight.check().unwrap();
        assert_eq!(weight.levels.kind(), layout.levels);
        let expanded = kind.expand(&bytes, rows * width);
        let largest = expanded.iter().fold(0f32, |a, w| a.max(w.abs()));
        for (a, b) in weight.to_dense().iter().zip(&expanded) {
            assert!((a - b).abs() <= 1e-6 * largest, "{kind}: {a} {b}");
        }
        let mut tuned = bytes.clone();
        kind.rescale(&mut tuned, &scales, None).unwrap();
        assert!(tuned == bytes, "{kind}");
        let doubled: Vec<f32> = scales.iter().map(|scale| 2.0 * scale).collect();
        kind.rescale(&mut tuned, &doubled, None).unwrap();
        for (old, new) in expanded.iter().zip(kind.expand(&tuned, rows * width)) {
            // The scale of the fifth block is 0: it stays.
            assert!(new == 2.0 * old || new == *old, "{kind}: {old} {new}");
        }
        for (old, new) in bytes.chunks_exact(layout.bytes).zip(tuned.chunks_exact_mut(layout.bytes)) {
            new[layout.floats()].copy_from_slice(&old[layout.floats()]);
            assert!(old == new, "{kind}");
        }
    }
}
