//! Moves of scales: one unit per scale, whose k is drawn once for both signs.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{CUBE, cubes};
use super::noise::{NoiseArgs, NoiseKind, args, integer_noise, moved};
use crate::zo::direction::Move;

/// `out` begins with the scales moved by +coefficient; where it is long enough for both signs, those moved by
/// −coefficient follow.
#[cube(launch)]
fn move_scales(
    scales: &Array<f32>,
    out: &mut Array<f32>,
    count: usize,
    noise: &NoiseArgs,
    #[comptime] both_signs: bool,
    #[comptime] kind: NoiseKind,
) {
    let i = ABSOLUTE_POS;
    if i >= count {
        terminate!();
    }
    let k = integer_noise(i as u32, noise, kind);
    out[i] = moved(scales[i], k, noise.coefficient, kind);
    if both_signs {
        out[count + i] = moved(scales[i], k, -noise.coefficient, kind);
    }
}

/// Moves the scales, to one side or to both.
///
/// # Shapes
/// `scales`: f32 `[n]`; `out`: f32 `[n]`, or `[2 · n]` for both signs; contiguous.
pub(super) fn launch<R: CubeRuntime>(
    scales: CubeTensor<R>,
    parameter: u32,
    displacement: Move,
    out: CubeTensor<R>,
) {
    let client = scales.client.clone();
    let count = scales.shape().num_elements();
    let both_signs = out.shape().num_elements() == 2 * count;
    move_scales::launch::<R>(
        &client,
        cubes(count),
        CubeDim::new_1d(CUBE),
        scales.binding().into_array_arg(),
        out.binding().into_array_arg(),
        count,
        args(parameter, displacement),
        both_signs,
        displacement.into(),
    );
}
