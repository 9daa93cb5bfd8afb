//! Attention with a running maximum (Dao et al. 2022), so that no score ever reaches global memory.

mod backward;
mod launch;
mod queries;
mod tensor_cores;
#[cfg(test)]
mod tests;
mod tiled;
mod untiled;

pub(super) use backward::launch as backward;
pub(super) use launch::launch;
