//! `Y = X · Wᵀ` of packed weights, with the weights' rows in the vector lanes and the tokens broadcast.
//!
//! A unit is `LANES` rows of a weight, a word one f32 or two neighbouring bf16, a slice up to `SLICE` words
//! of every row or token. One slice of a unit at a time is unpacked into the first level cache and
//! multiplied with all tokens of a pass: a weight is unpacked once for both signs of a perturbation and
//! never exists in full.
//!
//! ```text
//! X   [slices][T][words]              packed once for all weights that share it
//! W   [words][LANES rows]             the slice at hand
//! Y   [units][tokens][LANES rows]     f32, of the units and the pass at hand
//! ```
//!
//! f32 weights are scaled while they are unpacked. In bf16 what a scale multiplies (`code − zero`, exact
//! in bf16) is multiplied first, and the scale, perturbed or not, multiplies the sum over its group in
//! f32. So rounding to bf16 touches the activations alone, the same way at both signs of a perturbation,
//! and a perturbed scale is never rounded. The entries of a codebook are rounded, too, the same way for all
//! tokens.
//!
//! Where groups have blocks with factors of their own, `values` makes a group of each block, so that nothing else
//! knows of them.
//!
//! Every sum has one order, whatever the number of tokens and of threads.

mod arithmetic;
mod codebook;
mod dense;
mod input;
mod tile;
mod transpose;
mod unit;
mod unpack;
mod values;
mod vector;

use std::ops::Range;

use rayon::prelude::*;

use crate::zo::direction::Move;
pub(super) use arithmetic::Arithmetic;
pub(super) use dense::dense_linear;
use input::Input;
use unit::{Buffers, Prepared, Unit};

/// Rows of a unit.
const LANES: usize = 32;
/// Words of a slice, a multiple of 32 so that it starts at a new word of codes whatever their width;
/// `LANES` rows of it are 16 KiB.
const SLICE: usize = 128;
/// Units that a task multiplies with a slice of the tokens before it goes on to the next, where all slices
/// together are more words than the caches keep at hand.
const UNITS: usize = 4;
const MANY_WORDS: usize = 512 * 1024;
/// Tokens of a pass: so many that unpacking is cheap beside them, so few that a slice of theirs and their
/// results stay in the second level cache.
const TOKENS: usize = 640;

/// A packed weight as slices.
pub(super) struct WeightView<'a> {
    pub out_features: usize,
    pub in_features: usize,
    pub bits: u32,
    pub group_size: usize,
    pub codes: &'a [u32],
    pub scales: &'a [f32],
    pub levels: LevelsView<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum LevelsView<'a> {
    Zero(f32),
    Zeros(&'a [u8]),
    Minimum(&'a [f32]),
    Blocks(BlocksView<'a>),
    Codebook(CodebookView<'a>),
}

/// [`crate::packed::Blocks`]
#[derive(Clone, Copy)]
pub(super) struct BlocksView<'a> {
    pub width: usize,
    pub zero: f32,
    pub factors: &'a [i8],
    /// And what each group counts them in.
    pub minima: Option<(&'a [u8], &'a [f32])>,
}

/// [`crate::packed::Codebook`]
#[derive(Clone, Copy)]
pub(super) struct CodebookView<'a> {
    pub width: usize,
    pub books: usize,
    pub entries: &'a [f32],
}

impl WeightView<'_> {
    fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    fn blocks(&self) -> usize {
        self.in_features.div_ceil(self.block_size())
    }

    fn words_per_row(&self) -> usize {
        self.code_bits(0..self.in_features).end.div_ceil(32)
    }

    /// Where in a row the codes of some features are.
    fn code_bits(&self, features: Range<usize>) -> Range<usize> {
        let bits = self.bits as usize;
        match self.levels {
            LevelsView::Codebook(CodebookView { width, books, .. }) => {
                features.start / width * books * bits..features.end.div_ceil(width) * books * bits
            }
            _ => features.start * bits..features.end * bits,
        }
    }

    /// Features of a block; a group without blocks is one.
    fn block_size(&self) -> usize {
        match self.levels {
            LevelsView::Blocks(BlocksView { width, .. }) => width,
            _ => self.group_size,
        }
    }

    /// Whether words of two features straddle no blocks.
    pub fn is_even(&self) -> bool {
        self.in_features.is_multiple_of(2) && self.block_size().is_multiple_of(2)
    }
}

/// One of the weights that share an input.
pub(super) struct Product<'a> {
    pub weight: WeightView<'a>,
    /// The perturbation of each equal part of the tokens.
    pub parts: Vec<Option<(u32, Move)>>,
    /// `[T, out_features]`
    pub y: &'a mut [f32],
}

/// `x`: `[T, in_features]`; only weights that are even where a word holds two features.
pub(super) fn packed_linear(x: &[f32], products: Vec<Product<'_>>, arithmetic: Arithmetic) {
    let Some(in_features) = products.first().map(|product| product.weight.in_features) else { return };
    if x.is_empty() {
        return;
    }
    let input = Input::new(x, in_features, arithmetic.features());
    let products = Prepared::new(products, arithmetic, &input);
    let units: Vec<_> = products
        .iter()
        .flat_map(|product| {
            (0..product.weight.out_features).step_by(LANES).map(move |first| (product, first))
        })
        .collect();
    // A multiple of the threads, since nothing else is done before the last task has ended.
    let threads = rayon::current_num_threads();
    let most = if input.words() > MANY_WORDS { UNITS } else { 1 };
    let tasks = units.len().div_ceil(threads * most) * threads;
    let passes = input.tokens.div_ceil(TOKENS);
    (0..tasks).into_par_iter().for_each_init(Buffers::default, |buffers, task| {
        let units = &units[task * units.len() / tasks..(task + 1) * units.len() / tasks];
        let mut units: Vec<_> = units.iter().map(|(product, first)| Unit::new(product, *first)).collect();
        for pass in 0..passes {
            units.iter_mut().for_each(|unit| unit.begin([pass, passes]));
            for slice in 0..input.slices() {
                units.iter_mut().for_each(|unit| unit.add_slice(slice, buffers));
            }
            // SAFETY: no two units have the same rows of a weight.
            units.iter().for_each(|unit| unsafe { unit.write() });
        }
    });
}

/// The runs of a slice of `length` words: groups or what lies of them in it, as group and number of words.
#[inline(always)]
fn runs(slice: usize, length: usize, group_words: usize) -> impl Iterator<Item = (usize, usize)> {
    let (start, end) = (slice * SLICE, slice * SLICE + length);
    let first = start / group_words;
    let edge = move |group: usize| (group * group_words).clamp(start, end);
    (first..end.div_ceil(group_words)).map(move |group| (group, edge(group + 1) - edge(group)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{get_code, put_code, words_per_row};
    use crate::rng::philox4x32_10;
    use crate::zo::direction::{Direction, Distribution, ScaleMode};

    fn word(i: usize) -> u32 {
        philox4x32_10([i as u32, 1, 2, 3], [4, 5])[0]
    }

    /// Uniform in [−1, 1), and exact in bf16.
    fn float(i: usize) -> f32 {
        (word(i) >> 24) as f32 / 128.0 - 1.0
    }

    /// Not only the widest instructions of the machine that tests: more tokens than a tile and a pass, a
    /// weight beside it, several slices, rows that fill no unit.
    #[test]
    fn every_instruction_set_gives_the_product() {
        let (tokens, input, group_size, bits) = (TOKENS + 38, 300, 20, 3);
        let noise = Move {
            direction: Direction {
                distribution: Distribution::Rademacher,
                mode: ScaleMode::Relative,
                seed: 1,
                probe: 0,
            },
            coefficient: 0.125,
        };
        let parts = [Some((9, noise)), Some((9, noise.reversed()))];
        let x: Vec<f32> = (0..tokens * input).map(float).collect();
        let scales: Vec<f32> = (0..75 * input / group_size).map(|i| float(i + 77)).collect();
        let minimum: Vec<f32> = scales.iter().map(|scale| 8.0 * scale - 3.0).collect();
        let row = words_per_row(input, bits);
        let mut codes = vec![0; 75 * row];
        for row in codes.chunks_exact_mut(row) {
            (0..input).for_each(|i| put_code(row, i, bits, word(i) >> 29));
        }
        let view = |out_features| WeightView {
            out_features,
            in_features: input,
            bits,
            group_size,
            codes: &codes,
            scales: &scales,
            levels: LevelsView::Minimum(&minimum),
        };
        let want = |out: usize, t: usize, o: usize| -> f64 {
            let weight = |i: usize| {
                let group = o * input / group_size + i / group_size;
                let (_, noise) = parts[2 * t / tokens].unwrap();
                let scale = noise.apply(scales[group], noise.k(9, group as u32));
                let code = get_code(&codes[o * row..][..row], i, bits) as f32;
                if scale == 0.0 {
                    minimum[group].into()
                } else {
                    f64::from(scale) * f64::from(code + minimum[group])
                }
            };
            assert!(o < out);
            (0..input).map(|i| f64::from(x[t * input + i]) * weight(i)).sum()
        };
        for arithmetic in Arithmetic::all() {
            let (mut narrow, mut wide) = (vec![0.0; tokens * 7], vec![0.0; tokens * 75]);
            let products = [(7, &mut narrow), (75, &mut wide)].map(|(out, y)| Product {
                weight: view(out),
                parts: parts.to_vec(),
                y,
            });
            packed_linear(&x, products.into(), arithmetic);
            for (out, y) in [(7, narrow), (75, wide)] {
                for t in (0..tokens).step_by(29) {
                    for o in 0..out {
                        let (got, want) = (f64::from(y[t * out + o]), want(out, t, o));
                        assert!((got - want).abs() < 2e-4, "{arithmetic:?} {t} {o}: {got} {want}");
                    }
                }
            }
        }
    }
}
