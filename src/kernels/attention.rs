//! Arguments of attention.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

/// Scale and cap that turn products of queries and keys into attention scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    pub scale: f32,
    /// Cap of the scores: x becomes `cap · tanh(x / cap)`.
    pub cap: Option<f32>,
}

/// Keys that each query row may see, as two ranges of rows of the key tensor. These express causality, sliding windows,
/// the borders between packed sequences, a prefix that several sequences continue and a cache of earlier keys.
#[derive(Debug, Clone)]
pub struct KeyRanges<B: Backend> {
    /// i32 `[4 × T]`: for each query row `prefix_begin, prefix_end, begin, end`. The prefix may be empty,
    /// the second range is not, and every row of the prefix comes before it.
    pub bounds: Tensor<B, 1, Int>,
}
