//! Results of kernels. Their memory is not set before several tasks write it: that would take as long as some products.

use std::mem::MaybeUninit;

use bytemuck::Pod;
use rayon::prelude::*;

/// A result that tasks write in chunks. `write` gets the number of a chunk, and the chunk, which is zeros.
pub(super) fn by_chunks<T: Pod + Send + Sync>(
    length: usize,
    chunk: usize,
    write: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Vec<T> {
    let mut values = Vec::with_capacity(length);
    let chunks = values.spare_capacity_mut()[..length].par_chunks_mut(chunk);
    chunks.enumerate().for_each(|(index, chunk)| write(index, zeroed(chunk)));
    // SAFETY: `zeroed` wrote every chunk.
    unsafe { values.set_len(length) };
    values
}

/// Sets all elements to 0.
#[inline(always)]
pub(super) fn zeroed<T: Pod>(out: &mut [MaybeUninit<T>]) -> &mut [T] {
    out.fill(MaybeUninit::new(T::zeroed()));
    // SAFETY: the line above wrote all.
    unsafe { out.assume_init_mut() }
}

/// A row-major matrix of which tasks write columns of their own.
pub(super) struct Columns {
    /// Without elements until all of them are written.
    values: Vec<f32>,
    start: *mut MaybeUninit<f32>,
    length: usize,
}

// SAFETY: by the contract of `part`, no two parts overlap.
unsafe impl Sync for Columns {}

impl Columns {
    /// A matrix of `length` elements.
    pub fn new(length: usize) -> Self {
        let mut values = Vec::with_capacity(length);
        let start = values.spare_capacity_mut().as_mut_ptr();
        Self { values, start, length }
    }

    /// `length` elements from number `start` on.
    ///
    /// # Safety
    /// The part lies inside the matrix, and nobody else holds any of it.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts, by the contract above")]
    pub unsafe fn part(&self, start: usize, length: usize) -> &mut [MaybeUninit<f32>] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }

    /// The elements.
    ///
    /// # Safety
    /// All of them have been written.
    pub unsafe fn written(mut self) -> Vec<f32> {
        // SAFETY: the capacity is at least the length, the rest by this function's contract.
        unsafe { self.values.set_len(self.length) };
        self.values
    }
}
