//! The query rows that attend to blocks of keys.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::super::buffers::{array, empty};
use super::super::super::launch::{CUBE, spread};

/// The smallest range of rows that contains all that attend to a key of the block; empty where there are none. One cube
/// per block.
#[cube(launch)]
fn query_hulls(
    bounds: &Array<i32>,
    hulls: &mut Array<i32>,
    rows: usize,
    blocks: usize,
    #[comptime] block: usize,
) {
    let units = comptime!(CUBE as usize);
    let (cube, unit) = (CUBE_POS, UNIT_POS as usize);
    let (first, end) = ((cube * block) as i32, (cube * block + block) as i32);
    let mut lowest = i32::MAX.runtime();
    let mut highest = 0i32;
    for row in range_stepped(unit, rows, units) {
        #[unroll]
        for range in 0..2usize {
            let from = bounds[4 * row + 2 * range];
            let to = bounds[4 * row + 2 * range + 1];
            if max(from, first) < min(to, end) {
                lowest = min(lowest, row as i32);
                highest = max(highest, row as i32 + 1);
            }
        }
    }
    let mut shared = SharedMemory::<i32>::new(comptime!(2 * CUBE as usize));
    shared[unit] = lowest;
    shared[units + unit] = highest;
    sync_cube();
    if unit == 0 && cube < blocks {
        for i in 0..units {
            lowest = min(lowest, shared[i]);
            highest = max(highest, shared[units + i]);
        }
        hulls[2 * cube] = min(lowest, highest);
        hulls[2 * cube + 1] = highest;
    }
}

/// The range of rows of each block of `block` keys: i32 `[2 × blocks]`.
pub(super) fn launch<R: CubeRuntime>(bounds: CubeTensor<R>, keys: usize, block: usize) -> CubeTensor<R> {
    let client = bounds.client.clone();
    let (rows, blocks) = (bounds.shape().num_elements() / 4, keys.div_ceil(block));
    let hulls = empty(&bounds, [2 * blocks], DType::I32);
    query_hulls::launch::<R>(
        &client,
        spread(blocks),
        CubeDim::new_1d(CUBE),
        array(bounds),
        array(hulls.clone()),
        rows,
        blocks,
        block,
    );
    hulls
}
