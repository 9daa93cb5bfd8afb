//! Packed codes → a dense weight in the compute dtype, with the scale already perturbed.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::noise::{NoiseArgs, NoiseArgsLaunch, NoiseKind, args, perturbed};
use super::{CUBE, cubes};
use crate::zo::perturbation::Noise;

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Scheme {
    bits: u32,
    levels: LevelsKind,
    /// Whether the scales are perturbed, and then how.
    perturbs: bool,
    noise: NoiseKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LevelsKind {
    Zero,
    Zeros,
    Minimum,
    Codebook,
}

#[derive(CubeLaunch, CubeType)]
struct Sizes {
    in_features: usize,
    words_per_row: usize,
    group_size: usize,
    groups: usize,
    units_per_row: usize,
    units: usize,
    zero: f32,
}

/// One unit unpacks the fewest codes that fill whole words (8 at 4 bits, 32 at 3 bits). Codes are read
/// once, in order; a scale is read, and its noise drawn, once for each group that a unit touches.
#[cube(launch)]
fn unpack<F: Float>(
    codes: &Array<u32>,
    scales: &Array<f32>,
    zeros: &Array<u32>,
    table: &Array<f32>,
    out: &mut Array<F>,
    sizes: &Sizes,
    noise: &NoiseArgs,
    #[comptime] scheme: Scheme,
    #[define(F)] _f: StorageType,
) {
    let unit = ABSOLUTE_POS;
    if unit >= sizes.units {
        terminate!();
    }
    let bits = comptime!(scheme.bits);
    let per_unit = comptime!(codes_per_unit(bits));
    let row = unit / sizes.units_per_row;
    let first = (unit % sizes.units_per_row) * per_unit;
    let words = row * sizes.words_per_row + first * comptime!(bits as usize) / 32;

    let mut scale = 0.0f32;
    let mut offset = 0.0f32;
    let mut group_end = first;
    for i in 0..per_unit {
        let column = first + i;
        if column < sizes.in_features {
            if column >= group_end {
                let group = column / sizes.group_size;
                group_end = (group + 1) * sizes.group_size;
                let index = row * sizes.groups + group;
                scale = scales[index];
                if comptime!(scheme.perturbs) {
                    scale = perturbed(scale, index as u32, noise, comptime!(scheme.noise));
                }
                if comptime!(scheme.levels == LevelsKind::Zero) {
                    offset = -sizes.zero;
                } else if comptime!(scheme.levels == LevelsKind::Zeros) {
                    let zero = (zeros[index / 4] >> ((index % 4) as u32 * 8u32)) & 255u32;
                    offset = -f32::cast_from(zero);
                } else if comptime!(scheme.levels == LevelsKind::Minimum) {
                    offset = table[index];
                }
            }
            let bit = (i as u32) * bits;
            let word = words + (bit / 32u32) as usize;
            let shift = bit % 32u32;
            let mut code = codes[word] >> shift;
            if comptime!(bits == 3) && shift > 29u32 {
                code |= codes[word + 1] << (32u32 - shift);
            }
            code &= comptime!(u32::MAX >> (32 - bits));
            let weight = if comptime!(scheme.levels == LevelsKind::Codebook) {
                scale * table[code as usize]
            } else if comptime!(scheme.levels == LevelsKind::Minimum) {
                // A block whose scale is 0 is constant: its minimum is the weight itself.
                select(scale == 0.0f32, offset, scale * (f32::cast_from(code) + offset))
            } else {
                scale * (f32::cast_from(code) + offset)
            };
            out[row * sizes.in_features + column] = F::cast_from(weight);
        }
    }
}

fn codes_per_unit(bits: u32) -> usize {
    if bits == 3 { 32 } else { 32 / bits as usize }
}

/// [`crate::kernels::DeviceLevels`] as buffers.
pub(super) enum Levels<R: CubeRuntime> {
    Zero(u8),
    Zeros(CubeTensor<R>),
    Minimum(CubeTensor<R>),
    Codebook(CubeTensor<R>),
}

pub(super) struct Layout {
    pub out_features: usize,
    pub in_features: usize,
    pub bits: u32,
    pub group_size: usize,
}

/// # Shapes
/// `codes`: 32-bit words `[out × words_per_row]`; `scales`: f32 `[out × groups]`; `out`: float
/// `[out, in]`, contiguous.
pub(super) fn launch<R: CubeRuntime>(
    layout: Layout,
    codes: CubeTensor<R>,
    scales: CubeTensor<R>,
    levels: Levels<R>,
    perturbation: Option<(u32, Noise)>,
    out: CubeTensor<R>,
) {
    let client = codes.client.clone();
    // A buffer that this kernel is compiled not to read still has to be bound.
    let unread = || {
        // SAFETY: the handle was just made with room for one 4-byte element.
        unsafe { ArrayArg::<R>::from_raw_parts(client.empty(4), 1) }
    };
    let (kind, zero, zeros, table) = match levels {
        Levels::Zero(zero) => (LevelsKind::Zero, f32::from(zero), unread(), unread()),
        Levels::Zeros(zeros) => (LevelsKind::Zeros, 0.0, zeros.binding().into_array_arg(), unread()),
        Levels::Minimum(table) => (LevelsKind::Minimum, 0.0, unread(), table.binding().into_array_arg()),
        Levels::Codebook(table) => (LevelsKind::Codebook, 0.0, unread(), table.binding().into_array_arg()),
    };
    let units_per_row = layout.in_features.div_ceil(codes_per_unit(layout.bits));
    let units = units_per_row * layout.out_features;
    let dtype = out.dtype.into();
    unpack::launch::<R>(
        &client,
        cubes(units),
        CubeDim::new_1d(CUBE),
        codes.binding().into_array_arg(),
        scales.binding().into_array_arg(),
        zeros,
        table,
        out.binding().into_array_arg(),
        SizesLaunch::new(
            layout.in_features,
            crate::kernels::packed::words_per_row(layout.in_features, layout.bits),
            layout.group_size,
            layout.in_features.div_ceil(layout.group_size),
            units_per_row,
            units,
            zero,
        ),
        match perturbation {
            Some((parameter, noise)) => args(parameter, noise),
            None => NoiseArgsLaunch::new(0, 0, 0, 0, 0.0),
        },
        Scheme {
            bits: layout.bits,
            levels: kind,
            perturbs: perturbation.is_some(),
            noise: perturbation.map_or_else(NoiseKind::default, |(_, noise)| noise.into()),
        },
        dtype,
    );
}
