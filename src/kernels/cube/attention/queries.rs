//! Queries of a cube and their scores.

use cubecl::prelude::*;

/// A number below every score.
pub(super) const LOWEST: f32 = -3.0e38;

/// `cap · tanh(score / cap)`, where scores are capped at all.
#[cube]
pub(super) fn bounded(score: f32, cap: f32, #[comptime] capped: bool) -> f32 {
    if comptime!(capped) {
        // Beyond this tanh is 1, and the exponential soon overflows.
        let doubled = min(2.0f32 * score / cap, 60.0f32);
        cap * (1.0f32 - 2.0f32 / (doubled.exp() + 1.0f32))
    } else {
        score
    }
}

/// The queries of a cube: query `n` of a key head is row `n / group` and the `n % group`-th of the heads that read
/// this key head.
#[derive(CubeType, Clone, Copy)]
pub(super) struct QueryBlock {
    pub heads: usize,
    pub kv_heads: usize,
    pub kv_head: usize,
    /// The first of the cube's queries.
    pub first: usize,
    /// Queries of a key head, those of other cubes included.
    pub count: usize,
}

#[cube]
impl QueryBlock {
    pub fn row(&self, query: usize) -> usize {
        query / (self.heads / self.kv_heads)
    }

    /// The number of a query's row and head in `q` and `out`.
    pub fn head(&self, query: usize) -> usize {
        let group = self.heads / self.kv_heads;
        query / group * self.heads + self.kv_head * group + query % group
    }
}
