//! Units: some rows of a weight each, and their products with the tokens of a pass.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::results::Columns;
use super::arithmetic::Arithmetic;
use super::codebook::CodebookWords;
use super::codes::SliceCodes;
use super::input::{RunSums, SlicedInput};
use super::layout::{LANES, Rows, SLICE, copy_row};
use super::operands::{GroupOffsets, GroupScales, TileSlice};
use super::scales::UnitScales;
use super::tile;
use super::unpack;
use super::view::{PackedProduct, WeightView};
use crate::packed::Levels;
use crate::zo::direction::Move;

/// A product that is ready to be split into units.
pub(super) struct Prepared<'a> {
    pub weight: WeightView<'a>,
    parts: Vec<Option<(u32, Move)>>,
    /// `[T, out_features]`
    y: Columns,
    arithmetic: Arithmetic,
    group_words: usize,
    codebook: Option<CodebookWords<'a>>,
    /// Whether the unpacked weights contain the scales. In bf16 a displaced scale would be rounded away.
    scaled: bool,
    input: &'a SlicedInput,
    /// Sums of the input over each group, where offsets are added to the weights and not contained in them.
    sums: Option<Arc<RunSums>>,
}

impl<'a> Prepared<'a> {
    pub fn new(
        products: Vec<PackedProduct<'a>>,
        arithmetic: Arithmetic,
        input: &'a SlicedInput,
    ) -> Vec<Self> {
        let features = arithmetic.features();
        let mut sums_of = BTreeMap::new();
        let prepare = |PackedProduct { weight, parts }: PackedProduct<'a>| {
            let group_words = weight.sub_block_size() / features;
            let scaled = features == 1 || parts.iter().all(Option::is_none);
            let per_word = if scaled { 1 } else { features };
            let codebook = match weight.levels {
                Levels::Codebook(codebook) => Some(CodebookWords::new(codebook, weight.bits, per_word)),
                _ => None,
            };
            let sums = (!scaled && weight.levels.kind().has_mins()).then(|| {
                let new = || Arc::new(input.sums(group_words));
                sums_of.entry(group_words).or_insert_with(new).clone()
            });
            let y = Columns::new(input.tokens * weight.out_features);
            Self { weight, parts, y, arithmetic, group_words, codebook, scaled, input, sums }
        };
        products.into_iter().map(prepare).collect()
    }

    /// The product, `[T, out_features]`.
    ///
    /// # Safety
    /// The units of all rows have written all passes.
    pub unsafe fn written(self) -> Vec<f32> {
        // SAFETY: the units' rows and passes are all columns and rows of the matrix.
        unsafe { self.y.written() }
    }
}

/// Buffers that a thread reuses.
#[derive(Default)]
pub(super) struct UnitBuffers {
    /// Codes: `[words of codes]`.
    codes: Vec<[u32; LANES]>,
    /// Unpacked weights: `[words]`, or `[parts][words]` where they contain the scales.
    w: Rows<u32>,
}

/// Rows of a weight, and their products with the tokens of the pass at hand.
pub(super) struct Unit<'a> {
    product: &'a Prepared<'a>,
    /// Its first row.
    first: usize,
    /// Number of its rows; the lanes behind them hold arbitrary values.
    width: usize,
    scales: UnitScales,
    /// Tokens of the pass, counted from the first of a part.
    tokens: Range<usize>,
    /// Products: `[parts][tokens]`.
    y: Rows<f32>,
}

impl<'a> Unit<'a> {
    /// A unit without rows.
    pub fn new(product: &'a Prepared<'a>) -> Self {
        Self { product, first: 0, width: 0, scales: UnitScales::default(), tokens: 0..0, y: Rows::default() }
    }

    /// Takes the rows from `first` on.
    pub fn take(&mut self, product: &'a Prepared<'a>, first: usize) {
        let width = LANES.min(product.weight.out_features - first);
        (self.product, self.first, self.width) = (product, first, width);
        self.scales.set(&product.weight, &product.parts, first, width);
    }

    /// Begins a pass over some of the tokens, the same share of each part.
    pub fn begin(&mut self, [pass, passes]: [usize; 2]) {
        let Prepared { parts, input, .. } = self.product;
        let tokens = input.tokens / parts.len();
        self.tokens = tokens * pass / passes..tokens * (pass + 1) / passes;
        self.y.resize(parts.len() * self.tokens.len());
    }

    /// Adds the products over one slice of the input features to those of the slices before. `last`: the next slice is
    /// read next, and not in the caches yet.
    pub fn add_slice(&mut self, slice: usize, last: bool, buffers: &mut UnitBuffers) {
        self.unpack(slice, buffers);
        let Prepared { parts, input, sums, arithmetic, group_words, scaled, .. } = self.product;
        let length = input.length(slice);
        for (part, y) in self.y.chunks_exact_mut(self.tokens.len().max(1)).enumerate() {
            let first = part * (input.tokens / parts.len()) + self.tokens.start;
            let groups = (!scaled).then(|| {
                let (scales, offsets) = self.scales.part(part, slice * SLICE / group_words);
                let sums = sums.as_ref().map(|sums| &sums[slice][first..]);
                let stride = input.tokens;
                let offsets = offsets.zip(sums).map(|(values, sums)| GroupOffsets { values, sums, stride });
                GroupScales { start: slice * SLICE, group_words: *group_words, scales, offsets }
            });
            let w = if *scaled { &buffers.w[part * length..][..length] } else { &buffers.w };
            let x = &input.slice(slice)[first * length..][..y.len() * length];
            let next = match last && slice + 1 < input.slices() {
                true => {
                    let length = input.length(slice + 1);
                    &input.slice(slice + 1)[first * length..][..y.len() * length]
                }
                false => &[],
            };
            tile::multiply(*arithmetic, &TileSlice { x, w, groups, adds: slice > 0, next }, y);
        }
    }

    fn unpack(&self, slice: usize, buffers: &mut UnitBuffers) {
        let Prepared { weight, arithmetic, group_words, codebook, scaled, input, parts, .. } = self.product;
        let length = input.length(slice);
        let first = slice * SLICE * arithmetic.features();
        let words = weight.code_words(self.first, first..first + length * arithmetic.features());
        words.transpose(&mut buffers.codes);
        let codes = SliceCodes {
            codes: &buffers.codes,
            first_bit: words.first_bit,
            bits: weight.bits,
            first: slice * SLICE,
            group_words: *group_words,
            scales: &self.scales,
        };
        let w = &mut buffers.w;
        w.resize(if *scaled { parts.len() * length } else { length });
        match (scaled, arithmetic.features(), codebook) {
            (true, 1, None) => unpack::unpack_f32(&codes, length, w),
            (true, 1, Some(codebook)) => unpack::look_up_f32(&codes, codebook, length, w),
            (true, _, None) => unpack::unpack_scaled_bf16(&codes, w),
            (true, _, Some(codebook)) => unpack::look_up_scaled_bf16(&codes, codebook, w),
            (false, _, None) => unpack::unpack_bf16(&codes, w),
            (false, _, Some(codebook)) => unpack::look_up_bf16(&codes, codebook, w),
        }
    }

    /// Writes the products of the pass to the result.
    ///
    /// # Safety
    /// No other unit of these rows is at work.
    pub unsafe fn write(&self) {
        let Prepared { weight, y, input, parts, .. } = self.product;
        let part = input.tokens / parts.len();
        let tokens = (0..parts.len()).flat_map(|i| self.tokens.clone().map(move |token| i * part + token));
        for (token, row) in tokens.zip(self.y.iter()) {
            // SAFETY: row token < T and columns first .. first + width ≤ n of the T × n matrix `y`, which
            // are this unit's alone.
            let out = unsafe { y.part(token * weight.out_features + self.first, self.width) };
            copy_row(row, out);
        }
    }
}
