//! Directions, version 1, on the device: integer operations only, so that the bits agree everywhere.

use cubecl::prelude::*;

use crate::rng::Stream;
use crate::zo::direction::{Distribution, Move, ScaleMode};

const GAUSSIAN: u32 = Stream::Gaussian as u32;
const RADEMACHER: u32 = Stream::Rademacher as u32;

/// The part of a [`Move`] that a kernel is compiled for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct NoiseKind {
    pub rademacher: bool,
    pub absolute: bool,
}

impl From<Move> for NoiseKind {
    fn from(displacement: Move) -> Self {
        Self {
            rademacher: displacement.direction.distribution == Distribution::Rademacher,
            absolute: displacement.direction.mode == ScaleMode::Absolute,
        }
    }
}

/// The rest of a [`Move`], as scalars of a launch.
#[derive(CubeLaunch, CubeType)]
pub(super) struct NoiseArgs {
    pub parameter: u32,
    pub probe: u32,
    pub seed_low: u32,
    pub seed_high: u32,
    pub coefficient: f32,
}

pub(super) fn args<R: Runtime>(parameter: u32, displacement: Move) -> NoiseArgsLaunch<R> {
    NoiseArgsLaunch::new(
        parameter,
        displacement.direction.probe,
        displacement.direction.seed as u32,
        (displacement.direction.seed >> 32) as u32,
        displacement.coefficient,
    )
}

/// The scale moved along `k`; twin of [`Move::apply`].
#[cube]
pub(super) fn moved(scale: f32, k: i32, coefficient: f32, #[comptime] kind: NoiseKind) -> f32 {
    let shift = coefficient * f32::cast_from(k); // exact
    let moved = if comptime!(kind.absolute) { scale + shift } else { scale * (1.0f32 + shift) };
    select(scale == 0.0f32, scale, moved)
}

/// k of scale `index`; twin of [`integer_noise`](crate::zo::direction::integer_noise).
#[cube]
pub(super) fn integer_noise(index: u32, args: &NoiseArgs, #[comptime] kind: NoiseKind) -> i32 {
    if comptime!(kind.rademacher) {
        let bits = philox(index >> 7u32, RADEMACHER, args);
        let word = (index >> 5u32) & 3u32;
        let low = select(word == 0u32, bits.0, bits.1);
        let high = select(word == 2u32, bits.2, bits.3);
        let chosen = select(word < 2u32, low, high);
        i32::cast_from((chosen >> (index & 31u32)) & 1u32) * 2i32 - 1i32
    } else {
        let bits = philox(index, GAUSSIAN, args);
        let ones = u32::count_ones(bits.0)
            + u32::count_ones(bits.1)
            + u32::count_ones(bits.2)
            + u32::count_ones(bits.3);
        i32::cast_from(ones) - 64i32
    }
}

/// Philox4x32-10 (Salmon et al. 2011), counter = (c0, parameter, probe, stream).
#[cube]
fn philox(c0: u32, stream: u32, args: &NoiseArgs) -> (u32, u32, u32, u32) {
    let mut c0 = c0;
    let mut c1 = args.parameter;
    let mut c2 = args.probe;
    let mut c3 = stream;
    let mut k0 = args.seed_low;
    let mut k1 = args.seed_high;
    #[unroll]
    for _ in 0..10u32 {
        let high0 = u32::mul_hi(0xD2511F53u32, c0);
        let low0 = 0xD2511F53u32 * c0;
        let high1 = u32::mul_hi(0xCD9E8D57u32, c2);
        let low1 = 0xCD9E8D57u32 * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u32;
        k1 += 0xBB67AE85u32;
    }
    (c0, c1, c2, c3)
}
