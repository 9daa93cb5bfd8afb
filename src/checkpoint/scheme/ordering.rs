//! The order in which features were quantized, where it is not the model's own: files say the group of each feature
//! (`g_idx`), a packed weight the feature at each place of its rows.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::checkpoint::tensor::StoredTensor;
use crate::error::Result;
use crate::packed::{PackedWeight, get_code, put_code, words_per_row};

/// The features sorted by their groups, each group's in the order of the file; `None` where that is the model's order.
///
/// # Errors
/// Another shape; a group that does not have `group_size` features, unless it is the last one.
pub fn of_groups(
    g_idx: &StoredTensor<'_>,
    in_features: usize,
    group_size: usize,
) -> Result<Option<Vec<u32>>> {
    g_idx.expect_shape(&[in_features])?;
    let groups = g_idx.integers()?;
    let mut perm: Vec<u32> = (0..in_features as u32).collect();
    perm.sort_by_key(|&feature| groups[feature as usize]);
    let expected = |place: usize| i32::try_from(place / group_size).unwrap_or(i32::MAX);
    match perm.iter().enumerate().find(|(place, feature)| groups[**feature as usize] != expected(*place)) {
        Some((place, _)) => {
            let what = format!("group {} does not have {group_size} input features", expected(place));
            Err(g_idx.wrong(what))
        }
        None => Ok((!perm.is_sorted()).then_some(perm)),
    }
}

/// Reorders the codes of every row, from the model's order of features to `perm`.
pub fn apply(codes: &mut [u32], bits: u32, perm: &[u32]) {
    codes.par_chunks_mut(words_per_row(perm.len(), bits)).for_each_init(Vec::new, |stored, row| {
        stored.clear();
        stored.extend_from_slice(row);
        row.fill(0);
        for (place, &feature) in perm.iter().enumerate() {
            put_code(row, place, bits, get_code(stored, feature as usize, bits));
        }
    });
}

/// The codes with the features in the model's order, and the group of each feature.
pub fn undo(packed: &PackedWeight) -> (Cow<'_, [u32]>, Vec<u32>) {
    let group = |place: usize| (place / packed.group_size) as u32;
    let Some(perm) = &packed.perm else {
        return (Cow::Borrowed(&packed.codes), (0..packed.in_features).map(group).collect());
    };
    let mut g_idx = vec![0; packed.in_features];
    let mut codes = vec![0; packed.codes.len()];
    for (row, codes) in codes.chunks_exact_mut(packed.words_per_row()).enumerate() {
        for (place, &feature) in perm.iter().enumerate() {
            put_code(codes, feature as usize, packed.bits, packed.code(row, place));
        }
    }
    for (place, &feature) in perm.iter().enumerate() {
        g_idx[feature as usize] = group(place);
    }
    (Cow::Owned(codes), g_idx)
}
