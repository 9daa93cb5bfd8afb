//! Units, slices and the groups in them.

/// Rows of a unit.
pub(super) const LANES: usize = 32;
/// Words of a slice, a multiple of 32 so that it starts at a new word of codes whatever their width;
/// `LANES` rows of it are 16 KiB.
pub(super) const SLICE: usize = 128;

/// The runs of a slice of `length` words: for each group that lies in it, whole or in part, its number and its words
/// in the slice.
#[inline(always)]
pub(super) fn runs(slice: usize, length: usize, group_words: usize) -> impl Iterator<Item = (usize, usize)> {
    let (start, end) = (slice * SLICE, slice * SLICE + length);
    let first = start / group_words;
    let edge = move |group: usize| (group * group_words).clamp(start, end);
    (first..end.div_ceil(group_words)).map(move |group| (group, edge(group + 1) - edge(group)))
}
