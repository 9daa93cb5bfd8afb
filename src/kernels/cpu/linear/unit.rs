//! Some rows of a weight and their products with the tokens of a pass.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::columns::Columns;
use super::arithmetic::Arithmetic;
use super::codebook::Codebook;
use super::input::{Input, Sums};
use super::tile::{self, Groups, Offsets, Slice};
use super::transpose::transpose;
use super::unpack::{self, Codes};
use super::values::Values;
use super::{BlocksView, LANES, LevelsView, Product, SLICE, WeightView};
use crate::zo::direction::Move;

/// A product made ready to be split.
pub(super) struct Prepared<'a> {
    pub weight: WeightView<'a>,
    parts: Vec<Option<(u32, Move)>>,
    y: Columns<'a>,
    arithmetic: Arithmetic,
    group_words: usize,
    codebook: Option<Codebook<'a>>,
    input: &'a Input,
    /// `None` where nothing is added to the weights of a group, or where that is in the weights.
    sums: Option<Arc<Sums>>,
}

impl<'a> Prepared<'a> {
    pub fn new(products: Vec<Product<'a>>, arithmetic: Arithmetic, input: &'a Input) -> Vec<Self> {
        let features = arithmetic.features();
        let mut sums_of = BTreeMap::new();
        let prepare = |Product { weight, parts, y }: Product<'a>| {
            let group_words = weight.block_size() / features;
            let (mut codebook, mut sums) = (None, None);
            match weight.levels {
                LevelsView::Codebook(view) => codebook = Some(Codebook::new(view, weight.bits, features)),
                LevelsView::Minimum(_) | LevelsView::Blocks(BlocksView { minima: Some(_), .. })
                    if features > 1 =>
                {
                    let new = || Arc::new(input.sums(group_words));
                    sums = Some(sums_of.entry(group_words).or_insert_with(new).clone());
                }
                _ => {}
            }
            Self { weight, parts, y: Columns::new(y), arithmetic, group_words, codebook, input, sums }
        };
        products.into_iter().map(prepare).collect()
    }
}

/// What a thread reuses.
#[derive(Default)]
pub(super) struct Buffers {
    /// `[words of codes]`
    codes: Vec<[u32; LANES]>,
    /// `[words]`, for each part where the scales are in it.
    w: Vec<[u32; LANES]>,
}

pub(super) struct Unit<'a> {
    product: &'a Prepared<'a>,
    first: usize,
    /// Rows; what the lanes behind them hold means nothing.
    width: usize,
    values: Values,
    /// The tokens of the pass, counted from the first of a part.
    tokens: Range<usize>,
    /// `[parts][tokens]`
    y: Vec<[f32; LANES]>,
}

impl<'a> Unit<'a> {
    /// Rows from `first` on.
    pub fn new(product: &'a Prepared<'a>, first: usize) -> Self {
        let width = LANES.min(product.weight.out_features - first);
        let values = Values::new(&product.weight, &product.parts, first, width);
        Self { product, first, width, values, tokens: 0..0, y: vec![] }
    }

    /// The tokens of one pass of several, the same share of each part.
    pub fn begin(&mut self, [pass, passes]: [usize; 2]) {
        let Prepared { parts, input, .. } = self.product;
        let tokens = input.tokens / parts.len();
        self.tokens = tokens * pass / passes..tokens * (pass + 1) / passes;
        self.y.clear();
        self.y.resize(parts.len() * self.tokens.len(), [0.0; LANES]);
    }

    pub fn add_slice(&mut self, slice: usize, buffers: &mut Buffers) {
        self.unpack(slice, buffers);
        let Prepared { parts, input, sums, arithmetic, group_words, .. } = self.product;
        let (length, scaled) = (input.length(slice), arithmetic.features() == 1);
        for (part, y) in self.y.chunks_exact_mut(self.tokens.len().max(1)).enumerate() {
            let first = part * (input.tokens / parts.len()) + self.tokens.start;
            let groups = (!scaled).then(|| {
                let (scales, offsets) = self.values.part(part, slice * SLICE / group_words);
                let sums = sums.as_ref().map(|sums| &sums[slice][first..]);
                let stride = input.tokens;
                let offsets = offsets.zip(sums).map(|(values, sums)| Offsets { values, sums, stride });
                Groups { slice, group_words: *group_words, scales, offsets }
            });
            let w = if scaled { &buffers.w[part * length..][..length] } else { &buffers.w };
            let x = &input.slice(slice)[first * length..][..y.len() * length];
            tile::multiply(*arithmetic, &Slice { x, w, groups }, y);
        }
    }

    fn unpack(&self, slice: usize, buffers: &mut Buffers) {
        let Prepared { weight, arithmetic, group_words, codebook, input, parts, .. } = self.product;
        let length = input.length(slice);
        let features = slice * SLICE * arithmetic.features();
        let bits = weight.code_bits(features..features + length * arithmetic.features());
        let (row, word) = (weight.words_per_row(), bits.start / 32);
        buffers.codes.resize(bits.end.div_ceil(32) - word, [0; LANES]);
        let codes = &weight.codes[self.first * row + word..];
        transpose(codes, row, self.width, &mut buffers.codes);
        let codes = Codes {
            codes: &buffers.codes,
            first_bit: 32 * word,
            bits: weight.bits,
            slice,
            group_words: *group_words,
            values: &self.values,
        };
        let (w, scaled) = (&mut buffers.w, arithmetic.features() == 1);
        w.resize(if scaled { parts.len() * length } else { length }, [0; LANES]);
        match (scaled, codebook) {
            (true, None) => unpack::unpack_f32(&codes, length, w),
            (true, Some(codebook)) => unpack::look_up_f32(&codes, codebook, length, w),
            (false, None) => unpack::unpack_bf16(&codes, w),
            (false, Some(codebook)) => unpack::look_up_bf16(&codes, codebook, w),
        }
    }

    /// # Safety
    /// No other unit of these rows is at work.
    pub unsafe fn write(&self) {
        let Prepared { weight, y, input, parts, .. } = self.product;
        let part = input.tokens / parts.len();
        let tokens = (0..parts.len()).flat_map(|i| self.tokens.clone().map(move |token| i * part + token));
        for (token, row) in tokens.zip(&self.y) {
            // SAFETY: row token < T and columns first .. first + width ≤ n of the T × n matrix `y`, which
            // are this unit's alone.
            let out = unsafe { y.part(token * weight.out_features + self.first, self.width) };
            out.copy_from_slice(&row[..self.width]);
        }
    }
}
