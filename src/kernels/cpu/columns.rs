//! A row-major matrix that several tasks fill, each its own columns.

use std::marker::PhantomData;

pub(super) struct Columns<'a> {
    start: *mut f32,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: by the contract of `part`, what is handed out is disjoint from everything else that is.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub fn new(matrix: &'a mut [f32]) -> Self {
        Self { start: matrix.as_mut_ptr(), matrix: PhantomData }
    }

    /// # Safety
    /// The part lies inside the matrix, and nobody else holds any of it.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts, by the contract above")]
    pub unsafe fn part(&self, start: usize, length: usize) -> &mut [f32] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}
