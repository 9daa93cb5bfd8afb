//! The backend that records launches, and moves for them.

use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeBackend;

use super::runtime::Recorder;
use crate::packed::Levels;
use crate::zo::direction::{Direction, Distribution, Move, ScaleMode};

pub type B = CubeBackend<Recorder, f32, i32, u8>;
/// Levels on the recorder.
pub type RecorderLevels = Levels<Tensor<B, 1, Int>, Tensor<B, 1>>;

pub fn displacements() -> impl Iterator<Item = Move> {
    [Distribution::Gaussian, Distribution::Rademacher].into_iter().flat_map(|kind| {
        [ScaleMode::Absolute, ScaleMode::Relative].map(|mode| {
            let direction = Direction { distribution: kind, mode, ..displacement().direction };
            Move { direction, ..displacement() }
        })
    })
}

pub fn displacement() -> Move {
    let (kind, mode) = (Distribution::Gaussian, ScaleMode::Relative);
    Move { direction: Direction { distribution: kind, mode, seed: 1, probe: 0 }, coefficient: 0.5 }
}
