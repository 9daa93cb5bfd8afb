//! Unpacking of codes to dense weights in the compute dtype, under scales that are moved as they are read.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::buffers::array;
use super::launch::spread;
use super::noise::{NoiseArgs, NoiseArgsLaunch, NoiseKind, args, integer_noise, moved};
use super::packed::{CubeWeight, Packed, group_of, scaled_weights};
use crate::zo::direction::Move;

/// Most scales of a row that go through shared memory; those of longer rows are moved again for each vector.
const SHARED_SCALES: usize = 2048;

/// One weight with the parameter id and move of each of its parts: one, or two of opposite signs.
#[derive(Clone)]
pub(super) struct MovedWeight<R: CubeRuntime> {
    pub packed: CubeWeight<R>,
    pub parts: Vec<Option<(u32, Move)>>,
}

/// The settings with which the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Unpacking {
    /// Units of a cube.
    units: usize,
    /// Number of scales of a row that go through shared memory; 0: none do.
    shared: usize,
    /// Whether scales are moved.
    moves: bool,
    kind: NoiseKind,
}

/// One cube per row. Its scales are moved once, into shared memory; then neighbouring units read neighbouring
/// words and write neighbouring vectors.
#[cube(launch_unchecked)]
fn unpack<F: Float, N: Size>(
    weight: &Packed,
    noise: &NoiseArgs,
    out: &mut Array<Vector<F, N>>,
    rows: usize,
    #[comptime] form: Unpacking,
    #[define(F)] _f: StorageType,
) {
    let lanes = N::value().comptime();
    let unit = UNIT_POS as usize;
    let mut scales = SharedMemory::<f32>::new(comptime!(form.shared.max(1)));
    if CUBE_POS < rows {
        let negative = CUBE_POS >= weight.out_features;
        let row = select(negative, CUBE_POS - weight.out_features, CUBE_POS);
        let coefficient = select(negative, -noise.coefficient, noise.coefficient);
        if comptime!(form.shared > 0) {
            for group in range_stepped(unit, weight.groups, comptime!(form.units)) {
                scales[group] = scale(weight, noise, row, group, coefficient, form);
            }
            sync_cube();
        }
        let vectors = weight.in_features / lanes;
        for vector in range_stepped(unit, vectors, comptime!(form.units)) {
            let first = vector * lanes;
            let group = group_of(weight, first);
            let scale = if comptime!(form.shared > 0) {
                scales[group]
            } else {
                scale(weight, noise, row, group, coefficient, form)
            };
            let weights = scaled_weights::<N>(weight, scale, row, first);
            out[CUBE_POS * vectors + vector] = Vector::cast_from(weights);
        }
    }
}

/// The scale of a group, moved by `coefficient`.
#[cube]
fn scale(
    weight: &Packed,
    noise: &NoiseArgs,
    row: usize,
    group: usize,
    coefficient: f32,
    #[comptime] form: Unpacking,
) -> f32 {
    let index = row * weight.groups + group;
    let scale = weight.scales.read(index);
    if comptime!(form.moves) {
        moved(scale, integer_noise(index as u32, noise, form.kind), coefficient, form.kind)
    } else {
        scale
    }
}

/// Unpacks a weight.
///
/// # Shapes
/// `out`: a float buffer that begins with `[parts, out_features, in_features]`.
pub(super) fn launch<R: CubeRuntime>(MovedWeight { packed, parts }: MovedWeight<R>, out: CubeTensor<R>) {
    let client = out.client.clone();
    let (lanes, dtype) = (packed.lanes(out.dtype.size()), out.dtype.into());
    let (rows, groups) = (parts.len() * packed.out_features, packed.groups());
    let (noise, kind) = noise_args(&parts);
    let form = Unpacking {
        units: units(packed.in_features / lanes),
        shared: if groups <= SHARED_SCALES { groups } else { 0 },
        moves: kind.is_some(),
        kind: kind.unwrap_or_default(),
    };
    // SAFETY: a cube's row is below parts × out_features and `vector` below in_features / lanes, so that `out` is written
    // within its first parts × out_features × in_features elements, which it has by this function's contract; scales are
    // read below out_features × groups, and codes, bytes and tables where `packed::scaled_weights` reads them for a row and
    // column that exist.
    unsafe {
        unpack::launch_unchecked::<R>(
            &client,
            spread(rows),
            CubeDim::new_1d(form.units as u32),
            lanes,
            packed.into_launch(),
            noise,
            array(out),
            rows,
            form,
            dtype,
        );
    }
}

/// The move of the first part, and its kind where there is one; a second part moves as far the other way.
fn noise_args<R: CubeRuntime>(parts: &[Option<(u32, Move)>]) -> (NoiseArgsLaunch<R>, Option<NoiseKind>) {
    match parts {
        [Some((parameter, displacement)), ..] => {
            (args(*parameter, *displacement), Some((*displacement).into()))
        }
        _ => (NoiseArgsLaunch::new(0, 0, 0, 0, 0.0), None),
    }
}

/// Units of a cube: the most for which rounding the vectors up to whole rounds adds at most a tenth.
fn units(vectors: usize) -> usize {
    let busy = |units: &usize| vectors.next_multiple_of(*units) * 10 <= vectors * 11;
    [256, 128, 64].into_iter().find(busy).unwrap_or(64)
}
