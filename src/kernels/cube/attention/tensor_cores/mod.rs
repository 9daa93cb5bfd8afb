//! Attention on tensor cores, as FlashAttention-2 has it (Dao 2023): a warp keeps the scores of its 16 queries
//! and the sums of their values in registers, so that only keys and values go through shared memory. The backward pass does
//! so for queries, and for keys over their queries.

mod blocks;
mod fragments;
mod kernel;
pub(super) mod key_gradients;
mod products;
pub(super) mod query_gradients;
mod softmax;
mod tile;

pub(super) use kernel::launch;
pub(super) use tile::CoreTile;
