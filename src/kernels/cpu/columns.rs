//! A row-major matrix of which several tasks fill columns of their own.

use std::marker::PhantomData;

/// The matrix, of which disjoint parts are handed out.
pub(super) struct Columns<'a> {
    start: *mut f32,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: by the contract of `part`, no two parts overlap.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub fn new(matrix: &'a mut [f32]) -> Self {
        Self { start: matrix.as_mut_ptr(), matrix: PhantomData }
    }

    /// `length` elements from number `start` on.
    ///
    /// # Safety
    /// The part lies inside the matrix, and nobody else holds any of it.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts, by the contract above")]
    pub unsafe fn part(&self, start: usize, length: usize) -> &mut [f32] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}
