//! Rows that the units of a cube share, and sums over a row.

use burn_cubecl::CubeRuntime;
use cubecl::features::Plane;
use cubecl::prelude::*;

use super::rows::UNITS;

/// Most vectors that a unit keeps in registers.
pub(super) const MOST_HELD: usize = 16;

/// How the units of a cube share its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    /// Units of one row, a power of two.
    pub units: usize,
    /// Rows of a cube.
    pub rows: usize,
    /// Vectors of one unit: number `n` of unit `u` is number `u + n · units` of the row, if the row is so long.
    pub vectors: usize,
    /// Units whose values the device adds up in one instruction, or 1; a divisor of `units`.
    plane: usize,
}

impl Share {
    /// The share for rows of `width` vectors.
    pub fn new(width: usize, plane: usize) -> Self {
        Self::of_units(width.next_power_of_two().clamp(plane.max(32), UNITS), width, plane)
    }

    /// The share for rows of `width` vectors that may be much shorter than a plane.
    pub fn of_short_rows(width: usize, plane: usize) -> Self {
        let units = width.next_power_of_two().min(UNITS);
        Self::of_units(units, width, if units < plane { 1 } else { plane })
    }

    fn of_units(units: usize, width: usize, plane: usize) -> Self {
        Self { units, rows: UNITS / units, vectors: width.div_ceil(units), plane }
    }

    /// Whether the rows are read once: units keep what they have read.
    pub fn holds(self) -> bool {
        self.vectors <= MOST_HELD
    }
}

/// See [`Share::plane`].
pub(super) fn plane<R: CubeRuntime>(client: &ComputeClient<R>) -> usize {
    let properties = client.properties();
    let [least, most] = [properties.hardware.plane_size_min, properties.hardware.plane_size_max];
    let plane = most as usize;
    let adds = properties.features.plane.contains(Plane::Ops) && least == most;
    if adds && plane.is_power_of_two() && plane <= UNITS { plane } else { 1 }
}

/// Position of a unit in the rows.
#[derive(CubeType, Clone, Copy)]
pub struct UnitPlace {
    /// The unit's number in its row.
    pub unit: usize,
    /// The row's first vector.
    pub first: usize,
    /// Vectors of the row; 0 past the last row.
    pub width: usize,
}

#[cube]
pub fn place(rows: usize, width: usize, #[comptime] share: Share) -> UnitPlace {
    let unit = UNIT_POS as usize;
    let row = CUBE_POS * comptime!(share.rows) + unit / comptime!(share.units);
    UnitPlace {
        unit: unit % comptime!(share.units),
        first: row * width,
        width: select(row < rows, width, 0usize),
    }
}

/// The sum of the elements of a row's vectors, one of each unit; every unit of the cube takes part.
#[cube]
pub fn total<N: Size>(values: Vector<f32, N>, #[comptime] share: Share) -> f32 {
    let lanes = N::value().comptime();
    let mut sum = 0.0f32;
    #[unroll]
    for lane in 0..lanes {
        sum += values[lane];
    }
    if comptime!(share.plane == 1) { tree_sum(sum, share) } else { planes_sum(sum, share) }
}

/// The sum of a row's values: half of the units add those of the other half to theirs, until one is left.
#[cube]
fn tree_sum(value: f32, #[comptime] share: Share) -> f32 {
    let mut sums = SharedMemory::<f32>::new(comptime!(share.units * share.rows));
    let position = UNIT_POS as usize;
    let unit = position % comptime!(share.units);
    sums[position] = value;
    sync_cube();
    #[unroll]
    for step in 0..comptime!(share.units.trailing_zeros() as usize) {
        let half = comptime!(share.units >> (step + 1));
        if unit < half {
            let other = sums[position + half];
            sums[position] += other;
        }
        sync_cube();
    }
    sums[position - unit]
}

/// The sum of a row's values by planes, whose units are neighbours.
#[cube]
fn planes_sum(value: f32, #[comptime] share: Share) -> f32 {
    let sum = plane_sum(value);
    if comptime!(share.units == share.plane) {
        sum
    } else {
        let planes = comptime!(share.units / share.plane);
        let mut sums = SharedMemory::<f32>::new(comptime!(planes * share.rows));
        let position = UNIT_POS as usize;
        if UNIT_POS_PLANE == 0 {
            sums[position / comptime!(share.plane)] = sum;
        }
        sync_cube();
        let first = position / comptime!(share.units) * planes;
        let mut total = 0.0f32;
        #[unroll]
        for i in 0..planes {
            total += sums[first + i];
        }
        total
    }
}
