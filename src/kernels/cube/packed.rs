//! A packed weight as the kernels see it; its layout is drawn in [`crate::kernels::packed`].

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::std::tensor::View;
use cubecl::std::tensor::launch::ViewArg;
use cubecl::std::tensor::layout::Coords1d;
use cubecl::std::tensor::layout::plain::PlainLayout;

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme {
    bits: u32,
    group_size: usize,
    levels: LevelsKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LevelsKind {
    Zero,
    Zeros,
    Minimum,
    Codebook,
}

/// Everything that says what a weight is, with the scales in as many versions as there are parts.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub struct Packed {
    codes: View<u32, Coords1d>,
    /// `[parts, out_features, groups]`
    scales: View<f32, Coords1d>,
    /// Four zero points a word; read where there are zeros.
    zeros: View<u32, Coords1d>,
    /// Minima or the codebook; read where there are such.
    table: View<f32, Coords1d>,
    pub out_features: usize,
    pub in_features: usize,
    words_per_row: usize,
    groups: usize,
    zero: f32,
    #[cube(comptime)]
    scheme: Scheme,
}

/// [`crate::kernels::DeviceLevels`] as buffers.
#[derive(Clone)]
pub(super) enum Levels<R: CubeRuntime> {
    Zero(u8),
    Zeros(CubeTensor<R>),
    Minimum(CubeTensor<R>),
    Codebook(CubeTensor<R>),
}

/// [`crate::kernels::DeviceWeight`] as buffers.
#[derive(Clone)]
pub(super) struct Buffers<R: CubeRuntime> {
    pub out_features: usize,
    pub in_features: usize,
    pub bits: u32,
    pub group_size: usize,
    pub codes: CubeTensor<R>,
    pub scales: CubeTensor<R>,
    pub levels: Levels<R>,
}

/// `lanes` neighbouring weights of one row, none of them beyond its end and all of one group, under the
/// scales of one part. `first` is a multiple of `lanes`, a power of two of at most 8.
#[cube]
pub fn weights<N: Size>(packed: &Packed, part: usize, row: usize, first: usize) -> Vector<f32, N> {
    let lanes = N::value().comptime();
    let bits = comptime!(packed.scheme.bits as usize);
    let levels = comptime!(packed.scheme.levels);
    let index = row * packed.groups + first / comptime!(packed.scheme.group_size);
    let scale = packed.scales.read(part * packed.out_features * packed.groups + index);
    let offset = offset(packed, index);
    let words = row * packed.words_per_row + first * bits / 32;
    let shift = (first * bits % 32) as u32;
    let per_word = comptime!((32 / bits).min(lanes));

    let mut weights = Vector::<f32, N>::empty();
    #[unroll]
    for w in 0..comptime!(lanes / per_word) {
        let mut word = 0u32;
        if comptime!(bits != 3) {
            word = packed.codes.read(words + w) >> shift;
        }
        #[unroll]
        for i in 0..per_word {
            let lane = comptime!(w * per_word + i);
            let mut code = word >> comptime!((i * bits) as u32);
            if comptime!(bits == 3) {
                code = straddling_code(packed, row, first + lane);
            }
            code &= comptime!(u32::MAX >> (32 - bits));
            weights[lane] = if comptime!(levels == LevelsKind::Codebook) {
                scale * packed.table.read(code as usize)
            } else if comptime!(levels == LevelsKind::Minimum) {
                // A block whose scale is 0 is constant: its minimum is the weight itself.
                select(scale == 0.0f32, offset, scale * (f32::cast_from(code) + offset))
            } else {
                scale * (f32::cast_from(code) + offset)
            };
        }
    }
    weights
}

/// What is added to every code of a group.
#[cube]
fn offset(packed: &Packed, index: usize) -> f32 {
    if comptime!(packed.scheme.levels == LevelsKind::Zero) {
        -packed.zero
    } else if comptime!(packed.scheme.levels == LevelsKind::Zeros) {
        let zero = (packed.zeros.read(index / 4) >> ((index % 4) as u32 * 8u32)) & 255u32;
        -f32::cast_from(zero)
    } else if comptime!(packed.scheme.levels == LevelsKind::Minimum) {
        packed.table.read(index)
    } else {
        0.0f32.runtime()
    }
}

/// A code that may begin in one word and end in the next, with other bits above it.
#[cube]
fn straddling_code(packed: &Packed, row: usize, column: usize) -> u32 {
    let bits = comptime!(packed.scheme.bits);
    let bit = column * comptime!(bits as usize);
    let word = row * packed.words_per_row + bit / 32;
    let shift = (bit % 32) as u32;
    let mut code = packed.codes.read(word) >> shift;
    if shift > comptime!(32 - bits) {
        code |= packed.codes.read(word + 1) << (32u32 - shift);
    }
    code
}

impl<R: CubeRuntime> Buffers<R> {
    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    /// How many neighbouring weights can be unpacked at a time into elements of `size` bytes: they fill at
    /// most 16 bytes, and no group or row ends within them.
    pub fn lanes(&self, size: usize) -> usize {
        let fits =
            |lanes: &usize| self.in_features.is_multiple_of(*lanes) && self.group_size.is_multiple_of(*lanes);
        [8, 4, 2].into_iter().filter(|lanes| lanes * size <= 16).find(fits).unwrap_or(1)
    }

    pub fn into_launch(self) -> PackedLaunch<R> {
        let client = self.codes.client.clone();
        // A buffer that a kernel is compiled not to read still has to be bound.
        let unread = || {
            // SAFETY: the handle was just made with room for one 4-byte element.
            unsafe { ArrayArg::<R>::from_raw_parts(client.empty(4), 1) }
        };
        let groups = self.groups();
        let (levels, zero, zeros, table) = match self.levels {
            Levels::Zero(zero) => (LevelsKind::Zero, f32::from(zero), unread(), unread()),
            Levels::Zeros(zeros) => (LevelsKind::Zeros, 0.0, zeros.binding().into_array_arg(), unread()),
            Levels::Minimum(minimum) => {
                (LevelsKind::Minimum, 0.0, unread(), minimum.binding().into_array_arg())
            }
            Levels::Codebook(codebook) => {
                (LevelsKind::Codebook, 0.0, unread(), codebook.binding().into_array_arg())
            }
        };
        let view = |array| ViewArg::new_array::<PlainLayout>(array, ());
        PackedLaunch::new(
            view(self.codes.binding().into_array_arg()),
            view(self.scales.binding().into_array_arg()),
            view(zeros),
            view(table),
            self.out_features,
            self.in_features,
            crate::kernels::packed::words_per_row(self.in_features, self.bits),
            groups,
            zero,
            Scheme { bits: self.bits, group_size: self.group_size, levels },
        )
    }
}
