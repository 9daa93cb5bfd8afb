//! Units, slices and the groups in them.

/// Rows of a unit.
pub(super) const LANES: usize = 32;
/// Words of a slice, a multiple of 32 so that it starts at a new word of codes whatever their width;
/// `LANES` rows of it are 16 KiB.
pub(super) const SLICE: usize = 128;

/// The runs of `length` words of a row from word `start` on: for each group that lies in them, whole or in part, its
/// number and its words there.
#[inline(always)]
pub(super) fn runs(start: usize, length: usize, group_words: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = start + length;
    let first = start / group_words;
    let edge = move |group: usize| (group * group_words).clamp(start, end);
    (first..end.div_ceil(group_words)).map(move |group| (group, edge(group + 1) - edge(group)))
}
