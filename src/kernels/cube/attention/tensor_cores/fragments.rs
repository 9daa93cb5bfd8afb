//! Products of 16 × 8 tiles by one warp: on tensor cores, or by plain loops over the same registers, so that everything
//! else can be tested without tensor cores.
//!
//! Lane l of a warp holds the fragments that PTX defines for m16n8k16 ("Matrix fragments for mma.m16n8k16 with
//! floating point type", PTX ISA). With g = l / 4 and t = l % 4, these are the pairs of neighbours that begin at
//! columns 2t and 2t + 8 of rows g and g + 8 of the left tile, 16 × 16 (the rows change first); at rows 2t and
//! 2t + 8 of column g of the right tile, 16 × 8; and at column 2t of rows g and g + 8 of the sums, 16 × 8.

use cubecl::cmma::MmaDefinition;
use cubecl::ir::MatrixIdent;
use cubecl::prelude::*;

use super::tile::{CoreTile, LANE, WARP};

/// Two neighbours of a row or column.
pub(super) type Pair<T> = Vector<T, Const<2>>;

/// Shared memory through which the lanes of a warp exchange values where they have no instructions for it. A cube
/// whose units have them takes one element of each and does not use it.
#[derive(CubeType)]
pub(super) struct Scratch {
    floats: SharedMemory<f32>,
    ints: SharedMemory<i32>,
}

#[cube]
impl Scratch {
    pub fn new(#[comptime] tile: CoreTile) -> Scratch {
        let units = comptime!(if tile.cores { 1 } else { tile.units() });
        Scratch {
            floats: SharedMemory::<f32>::new(comptime!(LANE * units)),
            ints: SharedMemory::<i32>::new(units),
        }
    }

    /// `value` of the lane whose number differs in the bits of `mask`.
    pub fn other(&mut self, value: f32, #[comptime] mask: u32, #[comptime] tile: CoreTile) -> f32 {
        if comptime!(tile.cores) {
            plane_shuffle_xor(value, mask)
        } else {
            self.floats[UNIT_POS as usize] = value;
            sync_cube();
            let other = self.floats[(UNIT_POS ^ mask) as usize];
            sync_cube();
            other
        }
    }

    /// [`other`](Self::other) for integers.
    pub fn other_int(&mut self, value: i32, #[comptime] mask: u32, #[comptime] tile: CoreTile) -> i32 {
        if comptime!(tile.cores) {
            plane_shuffle_xor(value, mask)
        } else {
            self.ints[UNIT_POS as usize] = value;
            sync_cube();
            let other = self.ints[(UNIT_POS ^ mask) as usize];
            sync_cube();
            other
        }
    }
}

/// Loads the left tile of rows `row ..` and columns `column ..` of shared memory.
#[cube]
pub(super) fn load_left<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: CoreTile,
) -> Array<Pair<F>> {
    let lane = UNIT_POS as usize % WARP;
    if comptime!(tile.cores) {
        // Eight lanes name the rows of each of four 8 × 8 matrices: the second 8 rows further, the last two 8 columns.
        let at = tile_row(row + lane % 16, column + lane / 16 * 8, tile);
        load::<F, N>(from, at, false)
    } else {
        let mut pairs = Array::<Pair<F>>::new(4usize);
        let (g, t) = (lane / 4, lane % 4);
        pairs[0] = pair::<F, N>(from, row + g, column + 2 * t, tile);
        pairs[1] = pair::<F, N>(from, row + g + 8, column + 2 * t, tile);
        pairs[2] = pair::<F, N>(from, row + g, column + 2 * t + 8, tile);
        pairs[3] = pair::<F, N>(from, row + g + 8, column + 2 * t + 8, tile);
        pairs
    }
}

/// Loads two right tiles whose columns are the rows `row ..` and `row + 8 ..` of shared memory, and whose rows are
/// its columns `column ..`; two pairs each.
#[cube]
pub(super) fn load_rights_of_rows<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: CoreTile,
) -> Array<Pair<F>> {
    let lane = UNIT_POS as usize % WARP;
    if comptime!(tile.cores) {
        let at = tile_row(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8, tile);
        load::<F, N>(from, at, false)
    } else {
        let mut pairs = Array::<Pair<F>>::new(4usize);
        let (g, t) = (lane / 4, lane % 4);
        pairs[0] = pair::<F, N>(from, row + g, column + 2 * t, tile);
        pairs[1] = pair::<F, N>(from, row + g, column + 2 * t + 8, tile);
        pairs[2] = pair::<F, N>(from, row + g + 8, column + 2 * t, tile);
        pairs[3] = pair::<F, N>(from, row + g + 8, column + 2 * t + 8, tile);
        pairs
    }
}

/// Loads two right tiles whose rows are the rows `row ..` of shared memory, and whose columns are its columns
/// `column ..` and `column + 8 ..`; two pairs each.
#[cube]
pub(super) fn load_rights<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: CoreTile,
) -> Array<Pair<F>> {
    let lane = UNIT_POS as usize % WARP;
    if comptime!(tile.cores) {
        let at = tile_row(row + lane % 16, column + lane / 16 * 8, tile);
        load::<F, N>(from, at, true)
    } else {
        let mut pairs = Array::<Pair<F>>::new(4usize);
        let (g, t) = (lane / 4, lane % 4);
        pairs[0] = column_pair::<F, N>(from, row + 2 * t, column + g, tile);
        pairs[1] = column_pair::<F, N>(from, row + 2 * t + 8, column + g, tile);
        pairs[2] = column_pair::<F, N>(from, row + 2 * t, column + g + 8, tile);
        pairs[3] = column_pair::<F, N>(from, row + 2 * t + 8, column + g + 8, tile);
        pairs
    }
}

/// The number of a vector in shared memory.
#[cube]
fn tile_row(row: usize, column: usize, #[comptime] tile: CoreTile) -> usize {
    row * comptime!(tile.stride()) + column / comptime!(tile.lanes)
}

/// Loads four 8 × 8 matrices; lanes `8n ..` name the rows of the n-th. Transposed, the pairs of a lane are neighbours in
/// a column.
#[cube]
fn load<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    at: usize,
    #[comptime] transposed: bool,
) -> Array<Pair<F>> {
    let product = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    product.load_matrix::<Vector<F, N>, Const<2>>(&from.slice(at, at + 1), MatrixIdent::A, 4usize, transposed)
}

#[cube]
fn element<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: CoreTile,
) -> F {
    let vector = from[tile_row(row, column, tile)];
    let mut value = vector[0];
    #[unroll]
    for i in 1..comptime!(tile.lanes) {
        value = select(column % comptime!(tile.lanes) == i, vector[i], value);
    }
    value
}

#[cube]
fn pair<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: CoreTile,
) -> Pair<F> {
    let mut pair = Pair::<F>::empty();
    pair[0] = element::<F, N>(from, row, column, tile);
    pair[1] = element::<F, N>(from, row, column + 1, tile);
    pair
}

#[cube]
fn column_pair<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: CoreTile,
) -> Pair<F> {
    let mut pair = Pair::<F>::empty();
    pair[0] = element::<F, N>(from, row, column, tile);
    pair[1] = element::<F, N>(from, row + 1, column, tile);
    pair
}

/// `sums[2 · number ..] += left · right` for one tile of many.
#[cube]
pub(super) fn multiply<F: Float>(
    left: &Array<Pair<F>>,
    rights: &Array<Pair<F>>,
    #[comptime] right: usize,
    sums: &mut Array<Pair<f32>>,
    number: usize,
    scratch: &mut Scratch,
    #[comptime] tile: CoreTile,
) {
    let mut one = Array::<Pair<F>>::new(2usize);
    one[0] = rights[comptime!(2 * right)];
    one[1] = rights[comptime!(2 * right + 1)];
    let mut sum = Array::<Pair<f32>>::new(2usize);
    sum[0] = sums[2 * number];
    sum[1] = sums[2 * number + 1];
    if comptime!(tile.cores) {
        let product = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
        product.execute_inplace(left, &one, &mut sum);
    } else {
        multiply_by_loops::<F>(left, &one, &mut sum, scratch);
    }
    sums[2 * number] = sum[0];
    sums[2 * number + 1] = sum[1];
}

#[cube]
fn multiply_by_loops<F: Float>(
    left: &Array<Pair<F>>,
    right: &Array<Pair<F>>,
    sum: &mut Array<Pair<f32>>,
    scratch: &mut Scratch,
) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for i in 0..2usize {
        #[unroll]
        for j in 0..4usize {
            scratch.floats[unit * LANE + 2 * j + i] = f32::cast_from(left[j][i]);
        }
        #[unroll]
        for j in 0..2usize {
            scratch.floats[unit * LANE + 8 + 2 * j + i] = f32::cast_from(right[j][i]);
        }
    }
    sync_cube();
    let warp = unit / WARP * WARP;
    let (g, t) = (unit % WARP / 4, unit % 4);
    for k in 0..16usize {
        // The lane of four that has row or column k, its pair, and the side of the pair.
        let (lane, high, side) = (k % 8 / 2, k / 8, k % 2);
        #[unroll]
        for column in 0..2usize {
            let right = scratch.floats[(warp + (2 * t + column) * 4 + lane) * LANE + 8 + 2 * high + side];
            #[unroll]
            for row in 0..2usize {
                let left = scratch.floats[(warp + g * 4 + lane) * LANE + 2 * (2 * high + row) + side];
                let mut pair = sum[row];
                pair[column] += left * right;
                sum[row] = pair;
            }
        }
    }
    sync_cube();
}
