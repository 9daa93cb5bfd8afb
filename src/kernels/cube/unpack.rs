//! Unpacking of codes to dense weights in the compute dtype, under scales that are moved as they are read: one launch
//! for all weights of an input.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::spread;
use super::noise::{NoiseArgs, NoiseArgsLaunch, NoiseKind, args, integer_noise, moved};
use super::packed::{CubeWeight, Packed, group_of, scaled_weights};
use crate::zo::direction::Move;

/// Most scales of a row that go through shared memory; those of longer rows are moved again for each vector.
const SHARED_SCALES: usize = 2048;

/// Alignment of each weight in elements, since a slice of a buffer must be aligned.
pub(super) const ALIGNMENT: usize = 256;

/// One weight with the parameter id and move of each of its parts: one, or two of opposite signs.
#[derive(Clone)]
pub(super) struct MovedWeight<R: CubeRuntime> {
    pub packed: CubeWeight<R>,
    pub parts: Vec<Option<(u32, Move)>>,
}

/// A [`MovedWeight`] as an argument of the kernel.
#[derive(CubeLaunch, CubeType)]
struct WeightRows {
    packed: Packed,
    noise: NoiseArgs,
    /// Number of cubes before those of its rows.
    first: usize,
    /// Number of rows of all parts together.
    count: usize,
    /// Number of vectors of the result before its own.
    begin: usize,
    /// Whether its scales are moved.
    #[cube(comptime)]
    moves: bool,
    #[cube(comptime)]
    kind: NoiseKind,
    /// Whether its scales go through shared memory.
    #[cube(comptime)]
    shared: bool,
}

/// One cube per row. Its scales are moved once, into shared memory; then neighbouring units read neighbouring
/// words and write neighbouring vectors.
#[cube(launch_unchecked)]
fn unpack<F: Float, N: Size>(
    weights: &Sequence<WeightRows>,
    out: &mut Array<Vector<F, N>>,
    #[comptime] units: usize,
    #[comptime] shared: usize,
    #[define(F)] _f: StorageType,
) {
    let cube = CUBE_POS;
    let mut scales = SharedMemory::<f32>::new(shared);
    #[unroll]
    for i in 0..weights.len() {
        let rows = weights.index(i);
        if cube >= rows.first && cube < rows.first + rows.count {
            unpack_row::<F, N>(rows, cube - rows.first, out, &mut scales, units);
        }
    }
}

#[cube]
fn unpack_row<F: Float, N: Size>(
    rows: &WeightRows,
    at: usize,
    out: &mut Array<Vector<F, N>>,
    scales: &mut SharedMemory<f32>,
    #[comptime] units: usize,
) {
    let lanes = N::value().comptime();
    let unit = UNIT_POS as usize;
    let negative = at >= rows.packed.out_features;
    let row = select(negative, at - rows.packed.out_features, at);
    let coefficient = select(negative, -rows.noise.coefficient, rows.noise.coefficient);
    if comptime!(rows.shared) {
        for group in range_stepped(unit, rows.packed.groups, units) {
            scales[group] = scale(rows, row, group, coefficient);
        }
        sync_cube();
    }
    let vectors = rows.packed.in_features / lanes;
    for vector in range_stepped(unit, vectors, units) {
        let first = vector * lanes;
        let group = group_of(&rows.packed, first);
        let scale = if comptime!(rows.shared) { scales[group] } else { scale(rows, row, group, coefficient) };
        let weights = scaled_weights::<N>(&rows.packed, scale, row, first);
        out[rows.begin + at * vectors + vector] = Vector::cast_from(weights);
    }
}

/// The scale of a group, moved by `coefficient`.
#[cube]
fn scale(rows: &WeightRows, row: usize, group: usize, coefficient: f32) -> f32 {
    let index = row * rows.packed.groups + group;
    let scale = rows.packed.scales.read(index);
    if comptime!(rows.moves) {
        moved(scale, integer_noise(index as u32, &rows.noise, rows.kind), coefficient, rows.kind)
    } else {
        scale
    }
}

/// The first element of each weight in the buffer that [`launch`] fills, and the end of the last weight.
pub(super) fn offsets<R: CubeRuntime>(sources: &[MovedWeight<R>]) -> Vec<usize> {
    let ends = sources.iter().scan(0usize, |end, MovedWeight { packed, parts }| {
        *end += (parts.len() * packed.out_features * packed.in_features).next_multiple_of(ALIGNMENT);
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}

/// Unpacks all weights into one buffer.
///
/// # Shapes
/// The weights have one number of input features. `out`: float `[n]`, where each weight begins as [`offsets`]
/// gives it and is `[parts, out_features, in_features]`.
pub(super) fn launch<R: CubeRuntime>(sources: Vec<MovedWeight<R>>, out: CubeTensor<R>) {
    let client = out.client.clone();
    let (size, dtype) = (out.dtype.size(), out.dtype.into());
    let lanes = sources.iter().map(|source| source.packed.lanes(size)).min().unwrap_or(1);
    let vectors = sources.first().map_or(0, |source| source.packed.in_features / lanes);
    let units = units(vectors);
    let begins = offsets(&sources);
    let shared = |source: &MovedWeight<R>| source.packed.groups() <= SHARED_SCALES;
    let scales = sources.iter().filter(|source| shared(source)).map(|source| source.packed.groups()).max();
    let (mut weights, mut cubes) = (SequenceArg::new(), 0);
    for (source, begin) in sources.into_iter().zip(begins) {
        let count = source.parts.len() * source.packed.out_features;
        let (noise, kind) = noise_args(&source.parts);
        let (moves, kind, shared) = (kind.is_some(), kind.unwrap_or_default(), shared(&source));
        let packed = source.packed.into_launch();
        weights.push(WeightRowsLaunch::new(packed, noise, cubes, count, begin / lanes, moves, kind, shared));
        cubes += count;
    }
    // SAFETY: cubes beyond the last row take no branch of the kernel. Within it, `at` is below parts ×
    // out_features and `vector` below in_features / lanes, so that `out` is written within the weight's own
    // range of `offsets`, which ends within the buffer by this function's contract; scales are read below
    // out_features × groups, and codes, bytes and tables where `packed::scaled_weights` reads them for a
    // row and column that exist.
    unsafe {
        unpack::launch_unchecked::<R>(
            &client,
            spread(cubes),
            CubeDim::new_1d(units as u32),
            lanes,
            weights,
            out.binding().into_array_arg(),
            units,
            scales.unwrap_or(1),
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
