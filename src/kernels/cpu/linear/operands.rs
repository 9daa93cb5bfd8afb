//! The operands of the inner loops.

use super::layout::{LANES, LINE};

/// Activations and weights of one slice of the input features.
pub(super) struct TileSlice<'a> {
    /// `[tokens][words]`
    pub x: &'a [u32],
    /// `[words]`
    pub w: &'a [[u32; LANES]],
    /// The scales, where the weights do not contain them.
    pub groups: Option<GroupScales<'a>>,
    /// Whether the products are added to those of slices before.
    pub adds: bool,
    /// Activations that are read next: while a tile is multiplied, its tokens' share of them is brought to the second
    /// level cache. `[tokens][any]`, or empty.
    pub next: &'a [u32],
}

/// Scales that multiply the sums over each group.
pub(super) struct GroupScales<'a> {
    /// Number in the row of the slice's first word, see [`super::layout::runs`].
    pub start: usize,
    pub group_words: usize,
    /// Scales from the first group in the slice on.
    pub scales: &'a [[f32; LANES]],
    pub offsets: Option<GroupOffsets<'a>>,
}

/// Offsets that are added to every weight of a group.
#[derive(Clone, Copy)]
pub(super) struct GroupOffsets<'a> {
    /// Offsets from the first group in the slice on.
    pub values: &'a [[f32; LANES]],
    /// Sums of `x` over the runs, `[runs][stride]`, beginning with the first token of the tile.
    pub sums: &'a [f32],
    pub stride: usize,
}

/// Asks for the lines of some words, and does not wait for them.
#[inline(always)]
pub(super) fn prefetch(words: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    for line in words.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words.chunks(LINE);
}
