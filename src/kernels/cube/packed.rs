//! A packed weight as an argument of kernels; its layout is drawn in [`crate::packed`].

use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::prelude::*;
use cubecl::std::tensor::View;
use cubecl::std::tensor::launch::ViewArg;
use cubecl::std::tensor::layout::Coords1d;
use cubecl::std::tensor::layout::plain::PlainLayout;

use super::buffers::{array, float_buffer, int_buffer};
use crate::kernels::DeviceWeight;
use crate::packed::{LevelsKind, PackedWeight};

/// The part of a packed weight that a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackedScheme {
    bits: u32,
    group_size: usize,
    levels: LevelsKind,
}

/// A packed weight, with one version of the scales for each part.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub struct Packed {
    codes: View<u32, Coords1d>,
    /// `[parts, out_features, groups]`
    pub scales: View<f32, Coords1d>,
    /// Integers of the levels, four to a word; not read where there are none.
    bytes: View<u32, Coords1d>,
    /// Floats of the levels; not read where there are none.
    table: View<f32, Coords1d>,
    pub out_features: usize,
    pub in_features: usize,
    words_per_row: usize,
    pub groups: usize,
    sub_blocks: usize,
    zero: f32,
    #[cube(comptime)]
    scheme: PackedScheme,
}

/// A packed weight in buffers, laid out as in [`crate::kernels::DeviceWeight`].
pub(super) type CubeWeight<R> = PackedWeight<CubeTensor<R>, CubeTensor<R>, CubeTensor<R>>;

/// The buffers of a weight.
pub(super) fn cube_weight<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    weight: &DeviceWeight<CubeBackend<R, F, I, BT>>,
) -> CubeWeight<R> {
    weight.packed.as_ref().map(int_buffer, int_buffer, float_buffer)
}

/// `lanes` neighbouring weights of one row, as [`CubeWeight::lanes`] allows, under the scales of one part.
/// `first` is a multiple of `lanes`, a power of two of at most 8.
#[cube]
pub fn weights<N: Size>(packed: &Packed, part: usize, row: usize, first: usize) -> Vector<f32, N> {
    let index = row * packed.groups + group_of(packed, first);
    let scale = packed.scales.read(part * packed.out_features * packed.groups + index);
    scaled_weights::<N>(packed, scale, row, first)
}

/// The group of a column.
#[cube]
pub fn group_of(packed: &Packed, column: usize) -> usize {
    column / comptime!(packed.scheme.group_size)
}

/// The first column of a group, and the end of the last.
#[cube]
pub fn group_columns(packed: &Packed, group: usize) -> (usize, usize) {
    let begin = group * comptime!(packed.scheme.group_size);
    (begin, min(begin + comptime!(packed.scheme.group_size), packed.in_features))
}

/// [`weights`](fn@weights) under a given scale.
#[cube]
pub fn scaled_weights<N: Size>(packed: &Packed, scale: f32, row: usize, first: usize) -> Vector<f32, N> {
    let lanes = N::value().comptime();
    let scheme = comptime!(packed.scheme);
    let mut weights = Vector::<f32, N>::empty();
    if comptime!(matches!(scheme.levels, LevelsKind::Codebook { .. })) {
        let entries = entries::<N>(packed, row, first);
        #[unroll]
        for lane in 0..lanes {
            weights[lane] = scale * entries[lane];
        }
    } else {
        let index = row * packed.groups + group_of(packed, first);
        let block = row * packed.sub_blocks + first / comptime!(scheme.sub_block_size());
        let factor = sub_block_scale(packed, block);
        let zero = WHOLE + zero(packed, index);
        let minimum = minimum(packed, index, block);
        let codes = codes(packed, row, first, lanes);
        #[unroll]
        for lane in 0..lanes {
            let level = factor * (whole(codes[lane]) - zero);
            weights[lane] = if comptime!(scheme.has_mins()) {
                // Where the scale is 0 the group is constant: the minimum is the weight itself.
                select(scale == 0.0f32, minimum, scale * (level + minimum))
            } else {
                scale * level
            };
        }
    }
    weights
}

/// 2²³: every f32 from here on is a whole number. Below are its bits as an integer.
const WHOLE: f32 = 8_388_608.0;
const WHOLE_BITS: u32 = 0x4B00_0000;

/// `WHOLE + code`, for a code below 2²³, made by writing the code into the last bits of the fraction: that takes a
/// quarter of the time of a conversion.
#[cube]
fn whole(code: u32) -> f32 {
    f32::reinterpret(code | WHOLE_BITS)
}

#[cube]
fn sub_block_scale(packed: &Packed, block: usize) -> f32 {
    if comptime!(matches!(packed.scheme.levels, LevelsKind::SubBlocks { .. })) {
        // Signed: flipping the top bit adds 128.
        f32::cast_from(byte(packed, block) ^ 128u32) - 128.0f32
    } else {
        1.0f32.runtime()
    }
}

#[cube]
fn zero(packed: &Packed, group: usize) -> f32 {
    if comptime!(packed.scheme.levels == LevelsKind::Zeros) {
        f32::cast_from(byte(packed, group))
    } else {
        packed.zero
    }
}

/// The minimum of a sub-block, divided by the scale.
#[cube]
fn minimum(packed: &Packed, group: usize, block: usize) -> f32 {
    if comptime!(packed.scheme.levels == LevelsKind::Minimum) {
        packed.table.read(group)
    } else if comptime!(packed.scheme.has_mins()) {
        let minimum = byte(packed, packed.out_features * packed.sub_blocks + block);
        packed.table.read(group) * f32::cast_from(minimum)
    } else {
        0.0f32.runtime()
    }
}

#[cube]
fn byte(packed: &Packed, index: usize) -> u32 {
    (packed.bytes.read(index / 4) >> ((index % 4) as u32 * 8u32)) & 255u32
}

/// Sums of the codebooks' entries, of whole vectors or of a part of one.
#[cube]
fn entries<N: Size>(packed: &Packed, row: usize, first: usize) -> Vector<f32, N> {
    let lanes = N::value().comptime();
    let bits = comptime!(packed.scheme.bits as usize);
    let (width, num_codebooks) = comptime!(packed.scheme.vectors());
    let part = comptime!(width.min(lanes));
    let count = comptime!(lanes / part * num_codebooks);
    let codes = codes(packed, row, first / width * num_codebooks, count);
    let mut begin = 0;
    if comptime!(part < width) {
        begin = first % width;
    }
    let mut entries = Vector::<f32, N>::empty();
    #[unroll]
    for lane in 0..lanes {
        let mut sum = 0.0f32;
        #[unroll]
        for book in 0..num_codebooks {
            let code = codes[comptime!(lane / part * num_codebooks + book)] as usize;
            sum +=
                packed.table.read((code + comptime!(book << bits)) * width + begin + comptime!(lane % part));
        }
        entries[lane] = sum;
    }
    entries
}

/// `count` codes of a row from number `first` on, a multiple of `count`.
#[cube]
fn codes(packed: &Packed, row: usize, first: usize, #[comptime] count: usize) -> Array<u32> {
    let bits = comptime!(packed.scheme.bits as usize);
    let mask = comptime!(u32::MAX >> (32 - bits));
    let window = window(packed, row, first, count);
    let mut codes = Array::<u32>::new(count);
    #[unroll]
    for i in 0..count {
        let word = comptime!(i * bits / 32);
        let shift = comptime!((i * bits % 32) as u32);
        let mut code = window[word] >> shift;
        if comptime!(shift as usize + bits > 32) {
            code |= window[comptime!(word + 1)] << comptime!(32 - shift);
        }
        codes[i] = code & mask;
    }
    codes
}

/// The words that `count` codes fill, the first code in the lowest bits of the first: each word of the weight is
/// read once.
#[cube]
fn window(packed: &Packed, row: usize, first: usize, #[comptime] count: usize) -> Array<u32> {
    let filled = comptime!(count * packed.scheme.bits as usize);
    // They begin at a multiple of so many bits, so that they touch at most one word more than they fill.
    let step = comptime!(1 << filled.trailing_zeros().min(5));
    let touched = comptime!((32 - step + filled).div_ceil(32));
    let bit = first * comptime!(packed.scheme.bits as usize);
    let begin = row * packed.words_per_row + bit / 32;
    let shift = (bit % 32) as u32;
    let mut words = Array::<u32>::new(touched);
    #[unroll]
    for word in 0..touched {
        if comptime!(32 * word < filled) {
            words[word] = packed.codes.read(begin + word);
        } else {
            // It may lie beyond the end of the row where it is not needed.
            words[word] = 0u32;
            if shift > comptime!((32 * word - filled) as u32) {
                words[word] = packed.codes.read(begin + word);
            }
        }
    }
    if comptime!(step < 32) {
        #[unroll]
        for word in 0..touched {
            words[word] = words[word] >> shift;
            if comptime!(word + 1 < touched) {
                // In two steps, since a shift by 32 is not defined.
                words[word] |= (words[comptime!(word + 1)] << 1u32) << (31u32 - shift);
            }
        }
    }
    words
}

impl PackedScheme {
    fn sub_block_size(&self) -> usize {
        self.levels.sub_block_size(self.group_size)
    }

    fn has_mins(&self) -> bool {
        self.levels.has_mins()
    }

    fn vectors(&self) -> (usize, usize) {
        self.levels.vectors()
    }
}

impl<R: CubeRuntime> CubeWeight<R> {
    /// Neighbouring weights that can be unpacked at a time into elements of `size` bytes: they fill at most 16 bytes,
    /// no sub-block or row ends within them, and they are whole vectors or lie in one.
    pub fn lanes(&self, size: usize) -> usize {
        let (width, _) = self.levels.kind().vectors();
        let sub_block_size = self.sub_block_size();
        let fits = |lanes: &usize| {
            self.in_features.is_multiple_of(*lanes)
                && sub_block_size.is_multiple_of(*lanes)
                && (lanes.is_multiple_of(width) || width.is_multiple_of(*lanes))
        };
        [8, 4, 2].into_iter().filter(|lanes| lanes * size <= 16).find(fits).unwrap_or(1)
    }

    pub fn into_launch(self) -> PackedLaunch<R> {
        let client = self.codes.client.clone();
        // A buffer that a kernel is compiled not to read still has to be bound.
        let unread = || {
            // SAFETY: the handle was just made for one 4-byte element.
            unsafe { ArrayArg::<R>::from_raw_parts(client.empty(4), 1) }
        };
        let (groups, words_per_row, sub_blocks) = (self.groups(), self.words_per_row(), self.sub_blocks());
        let levels = self.levels.kind();
        let scheme = PackedScheme { bits: self.bits, group_size: self.group_size, levels };
        let (zero, bytes, table) = self.levels.into_parts();
        let view = |array| ViewArg::new_array::<PlainLayout>(array, ());
        PackedLaunch::new(
            view(array(self.codes)),
            view(array(self.scales)),
            view(bytes.map_or_else(unread, array)),
            view(table.map_or_else(unread, array)),
            self.out_features,
            self.in_features,
            words_per_row,
            groups,
            sub_blocks,
            f32::from(zero),
            scheme,
        )
    }
}
