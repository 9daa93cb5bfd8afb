//! Sizes of launches.

use cubecl::prelude::CubeCount;

/// Units in a cube of the one-dimensional kernels.
pub(super) const CUBE: u32 = 64;

/// Cubes for `units` independent units.
pub(super) fn cubes(units: usize) -> CubeCount {
    spread(units.div_ceil(CUBE as usize))
}

/// Cubes spread over two axes, because one axis holds 65,535 at most.
pub(super) fn spread(cubes: usize) -> CubeCount {
    let cubes = cubes as u32;
    let x = cubes.clamp(1, 32_768);
    CubeCount::Static(x, cubes.div_ceil(x).max(1), 1)
}
