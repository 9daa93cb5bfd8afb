//! Units, slices and the groups in them.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

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

/// Copies the first lanes of a row; all of them without a call.
#[inline(always)]
pub(super) fn copy_row(row: &[f32; LANES], out: &mut [MaybeUninit<f32>]) {
    match out.len() {
        LANES => out.write_copy_of_slice(row),
        width => out.write_copy_of_slice(&row[..width]),
    };
}

/// Rows of lanes, each at the beginning of a cache line: a load of a whole line that straddles two takes twice as long.
pub(super) struct Rows<T> {
    /// The rows, after and before words that are not used.
    words: Vec<u32>,
    start: usize,
    rows: usize,
    of: PhantomData<T>,
}

/// Words of a cache line.
pub(super) const LINE: usize = 16;

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { words: vec![], start: 0, rows: 0, of: PhantomData }
    }
}

impl<T: Pod> Rows<T> {
    fn zeros(rows: usize) -> Self {
        let write = |words: &mut [MaybeUninit<u32>]| words.fill(MaybeUninit::new(0));
        // SAFETY: all words are written.
        unsafe { Self::written(rows, write) }
    }

    /// Rows whose words are those that `write` writes. Setting them before would take as long as some products.
    ///
    /// # Safety
    /// `write` writes every word.
    pub unsafe fn written(rows: usize, write: impl FnOnce(&mut [MaybeUninit<u32>])) -> Self {
        let length = rows * LANES + LINE - 1;
        let mut words = Vec::<u32>::with_capacity(length);
        let all = &mut words.spare_capacity_mut()[..length];
        // The function may find no such place; rows elsewhere are only slower.
        let start = Some(all.as_ptr().align_offset(4 * LINE)).filter(|start| *start < LINE).unwrap_or(0);
        let (before, rest) = all.split_at_mut(start);
        let (of_rows, after) = rest.split_at_mut(rows * LANES);
        before.fill(MaybeUninit::new(0));
        after.fill(MaybeUninit::new(0));
        write(of_rows);
        // SAFETY: those before, of and after the rows are written.
        unsafe { words.set_len(length) };
        Self { words, start, rows, of: PhantomData }
    }

    /// Makes it as long as given. The values are arbitrary.
    pub fn resize(&mut self, rows: usize) {
        match self.start + rows * LANES <= self.words.len() {
            true => self.rows = rows,
            false => *self = Self::zeros(rows),
        }
    }
}

impl<T: Pod> Deref for Rows<T> {
    type Target = [[T; LANES]];

    fn deref(&self) -> &Self::Target {
        bytemuck::cast_slice(&self.words[self.start..self.start + self.rows * LANES])
    }
}

impl<T: Pod> DerefMut for Rows<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        bytemuck::cast_slice_mut(&mut self.words[self.start..self.start + self.rows * LANES])
    }
}
