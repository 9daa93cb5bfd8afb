//! Queries and keys of a cube in shared memory, and the keys that the queries see.

use cubecl::prelude::*;

use super::super::queries::QueryBlock;
use super::fragments::Scratch;
use super::tile::{CoreTile, WARP};

/// Loads `count` queries, or other rows of their shape, and zeros beyond the last.
#[cube]
pub(super) fn load_queries<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    queries: &mut SharedMemory<Vector<F, N>>,
    place: &QueryBlock,
    #[comptime] count: usize,
    #[comptime] tile: CoreTile,
) {
    let vectors = comptime!(tile.vectors());
    for i in range_stepped(UNIT_POS as usize, comptime!(count * tile.vectors()), comptime!(tile.units())) {
        let query = place.first + i / vectors;
        let mut value = Vector::new(F::new(0.0));
        if query < place.count {
            value = from[place.head(query) * vectors + i % vectors];
        }
        queries[i / vectors * comptime!(tile.stride()) + i % vectors] = value;
    }
}

/// Loads keys or values `start ..` of one head, `count` of them, and zeros from `end` on.
#[cube]
pub(super) fn load_keys<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    keys: &mut SharedMemory<Vector<F, N>>,
    start: usize,
    end: usize,
    place: &QueryBlock,
    #[comptime] count: usize,
    #[comptime] tile: CoreTile,
) {
    let vectors = comptime!(tile.vectors());
    for i in range_stepped(UNIT_POS as usize, comptime!(count * tile.vectors()), comptime!(tile.units())) {
        let key = start + i / vectors;
        let mut value = Vector::new(F::new(0.0));
        if key < end {
            value = from[(key * place.kv_heads + place.kv_head) * vectors + i % vectors];
        }
        keys[i / vectors * comptime!(tile.stride()) + i % vectors] = value;
    }
}

/// The smallest range that contains the keys of all rows of the block; empty where they have none. The lanes of each
/// warp read the bounds of all rows together.
#[cube]
pub(super) fn hull(
    bounds: &Array<Vector<i32, Const<4>>>,
    place: &QueryBlock,
    key_rows: usize,
    #[comptime] range: usize,
    scratch: &mut Scratch,
    #[comptime] tile: CoreTile,
) -> (usize, usize) {
    let mut begin = i32::MAX.runtime();
    let mut end = 0i32;
    #[unroll]
    for i in 0..comptime!(tile.queries().div_ceil(WARP)) {
        let query = place.first + UNIT_POS as usize % WARP + i * WARP;
        if query < place.count {
            let row = bounds[place.row(query)];
            let from = row[comptime!(2 * range)];
            let to = row[comptime!(2 * range + 1)];
            if from < to {
                begin = min(begin, from);
                end = max(end, to);
            }
        }
    }
    #[unroll]
    for bit in 0..5u32 {
        begin = min(begin, scratch.other_int(begin, comptime!(1u32 << bit), tile));
        end = max(end, scratch.other_int(end, comptime!(1u32 << bit), tile));
    }
    // No key beyond the last is read, whatever the bounds are.
    let end = min(end as usize, key_rows);
    (min(begin as usize, end), end)
}
