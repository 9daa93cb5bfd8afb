//! The backward pass of attention, without a matrix of probabilities (Dao et al. 2022): they are computed again, first for
//! blocks of queries, then for blocks of keys over the queries that attend to them. Every sum has one place and one order,
//! so that results do not change from run to run.
//!
//! ```text
//! s = scale · q·k, capped    p = exp(s − log_sum)    dp = dy·v    total = Σ_keys p · dp
//! ds = p · (dp − total) · scale · (1 − (s / cap)²)
//! dq = Σ_keys ds · k         dk = Σ_queries ds · q   dv = Σ_queries p · dy
//! ```

mod hulls;
mod key_blocks;
mod launch;
mod query_blocks;
mod tiles;
mod untiled;

pub(in crate::kernels::cube) use launch::launch;
#[cfg(test)]
pub(super) use launch::launch_with;
