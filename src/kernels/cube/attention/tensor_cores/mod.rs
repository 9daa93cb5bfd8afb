//! Attention on tensor cores, as FlashAttention-2 has it (Dao 2023): a warp keeps the scores of its 16 queries
//! and the sums of their values in registers, so that only keys and values go through shared memory.

mod fragments;
mod kernel;
mod softmax;
mod tile;

pub(super) use kernel::launch;
pub(super) use tile::CoreTile;
