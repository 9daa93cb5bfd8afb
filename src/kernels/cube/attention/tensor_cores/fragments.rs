//! Products of 16 × 8 tiles by one warp, on tensor cores or, so that all the rest can be tested without them,
//! by plain loops over the same registers.
//!
//! A warp's lane l holds of every tile what PTX calls m16n8k16's fragments ("Matrix fragments for
//! mma.m16n8k16 with floating point type", PTX ISA). With g = l / 4 and t = l % 4, as pairs of neighbours:
//! of the left, 16 × 16, the columns 2t and 2t + 8 of rows g and g + 8 (the rows change first); of the right,
//! 16 × 8, the rows 2t and 2t + 8 of column g; of the sums, 16 × 8, the columns 2t of rows g and g + 8.

use cubecl::cmma::MmaDefinition;
use cubecl::ir::MatrixIdent;
use cubecl::prelude::*;

use super::Tile;

pub(super) const WARP: usize = 32;

/// Two neighbours of a row or column.
pub(super) type Pair<T> = Vector<T, Const<2>>;

/// Through which the lanes of a warp exchange values where they have no instructions for it. A cube of units
/// that do has one element of each and leaves it alone.
#[derive(CubeType)]
pub(super) struct Scratch {
    floats: SharedMemory<f32>,
    ints: SharedMemory<i32>,
}

impl Scratch {
    /// Bytes of a cube's shared memory that it takes.
    pub fn bytes(tile: Tile) -> usize {
        4 * (LANE + 1) * if tile.cores { 1 } else { tile.units() }
    }
}

/// Floats that one lane exchanges for a product: 8 of the left tile and 4 of the right.
const LANE: usize = 12;

#[cube]
impl Scratch {
    pub fn new(#[comptime] tile: Tile) -> Scratch {
        let units = comptime!(if tile.cores { 1 } else { tile.units() });
        Scratch {
            floats: SharedMemory::<f32>::new(comptime!(LANE * units)),
            ints: SharedMemory::<i32>::new(units),
        }
    }

    /// `value` of the lane whose number differs in the bits of `mask`.
    pub fn other(&mut self, value: f32, #[comptime] mask: u32, #[comptime] tile: Tile) -> f32 {
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

    /// The same of integers.
    pub fn other_int(&mut self, value: i32, #[comptime] mask: u32, #[comptime] tile: Tile) -> i32 {
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

/// The left tile of rows `row ..` and columns `column ..` of shared memory.
#[cube]
pub(super) fn load_left<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
) -> Array<Pair<F>> {
    let lane = UNIT_POS as usize % WARP;
    if comptime!(tile.cores) {
        // Eight lanes name the rows of each of four 8 × 8 matrices: those of 8 rows more, then of 8 columns more.
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

/// Two right tiles whose columns are the rows `row ..` and `row + 8 ..` of shared memory, and whose rows are
/// its columns `column ..`; two pairs each.
#[cube]
pub(super) fn load_rights_of_rows<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
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

/// Two right tiles whose rows are the rows `row ..` of shared memory, and whose columns are its columns
/// `column ..` and `column + 8 ..`; two pairs each.
#[cube]
pub(super) fn load_rights<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
) -> Array<Pair<F>> {
    let lane = UNIT_POS as usize % WARP;
    if comptime!(tile.cores) {
        let at = tile_row(row + lane % 16, column + lane / 16 * 8, tile);
        load::<F, N>(from, at, true)
    } else {
        let mut pairs = Array::<Pair<F>>::new(4usize);
        let (g, t) = (lane / 4, lane % 4);
        pairs[0] = standing::<F, N>(from, row + 2 * t, column + g, tile);
        pairs[1] = standing::<F, N>(from, row + 2 * t + 8, column + g, tile);
        pairs[2] = standing::<F, N>(from, row + 2 * t, column + g + 8, tile);
        pairs[3] = standing::<F, N>(from, row + 2 * t + 8, column + g + 8, tile);
        pairs
    }
}

/// Where in shared memory a vector lies.
#[cube]
fn tile_row(row: usize, column: usize, #[comptime] tile: Tile) -> usize {
    row * comptime!(tile.stride()) + column / comptime!(tile.lanes)
}

/// Four 8 × 8 matrices, the rows of the n-th named by lanes `8n ..`; transposed, a lane's pairs stand.
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
    #[comptime] tile: Tile,
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
    #[comptime] tile: Tile,
) -> Pair<F> {
    let mut pair = Pair::<F>::empty();
    pair[0] = element::<F, N>(from, row, column, tile);
    pair[1] = element::<F, N>(from, row, column + 1, tile);
    pair
}

#[cube]
fn standing<F: Float, N: Size>(
    from: &SharedMemory<Vector<F, N>>,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
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
    #[comptime] tile: Tile,
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
        // Which lane of four has row or column k, in which pair, on which side.
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
