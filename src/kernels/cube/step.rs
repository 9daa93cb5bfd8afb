//! The step on the scales: one unit per scale, read once, written once.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::noise::{NoiseArgs, NoiseKind, args, perturbed};
use super::{CUBE, cubes};
use crate::zo::perturbation::Noise;

#[cube(launch)]
fn step_scales(scales: &Array<f32>, out: &mut Array<f32>, noise: &NoiseArgs, #[comptime] kind: NoiseKind) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = perturbed(scales[ABSOLUTE_POS], ABSOLUTE_POS as u32, noise, kind);
    }
}

/// # Shapes
/// `scales`, `out`: f32, rank 1, contiguous, of one length.
pub(super) fn launch<R: CubeRuntime>(
    scales: CubeTensor<R>,
    parameter: u32,
    noise: Noise,
    out: CubeTensor<R>,
) {
    let client = scales.client.clone();
    step_scales::launch::<R>(
        &client,
        cubes(scales.shape().num_elements()),
        CubeDim::new_1d(CUBE),
        scales.binding().into_array_arg(),
        out.binding().into_array_arg(),
        args(parameter, noise),
        noise.into(),
    );
}
