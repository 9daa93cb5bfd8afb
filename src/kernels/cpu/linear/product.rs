//! Products of one input with several packed weights, split into tasks.

use rayon::prelude::*;

use super::super::awake::keep_awake;
use super::arithmetic::Arithmetic;
use super::input::SlicedInput;
use super::layout::LANES;
use super::unit::{Prepared, Unit, UnitBuffers};
use super::view::PackedProduct;

/// Units that a task multiplies with a slice of the tokens before it goes on to the next slice, where the input has
/// more words than [`MANY_WORDS`].
const UNITS: usize = 4;
/// Words of an input that the caches no longer hold.
const MANY_WORDS: usize = 512 * 1024;
/// Tokens of a pass: enough to make unpacking cheap, and few enough to keep a slice of them and their results in the
/// second level cache.
const TOKENS: usize = 640;

/// Multiplies `x`, `[T, in_features]`, with every weight, and returns `[T, out_features]` of each. Where a word holds two
/// features, all weights must be even: see [`WeightView::is_even`](super::view::WeightView::is_even).
pub(in crate::kernels::cpu) fn packed_linear(
    x: &[f32],
    products: Vec<PackedProduct<'_>>,
    arithmetic: Arithmetic,
) -> Vec<Vec<f32>> {
    let Some(in_features) = products.first().map(|product| product.weight.in_features) else { return vec![] };
    if x.is_empty() {
        return vec![vec![]; products.len()];
    }
    keep_awake();
    let input = SlicedInput::new(x, in_features, arithmetic.features());
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
    let reused = || (Vec::<Unit<'_>>::new(), UnitBuffers::default());
    (0..tasks).into_par_iter().for_each_init(reused, |(reused, buffers), task| {
        let rows = &units[task * units.len() / tasks..(task + 1) * units.len() / tasks];
        reused.extend(rows.iter().skip(reused.len()).map(|(product, _)| Unit::new(product)));
        let units = &mut reused[..rows.len()];
        units.iter_mut().zip(rows).for_each(|(unit, (product, first))| unit.take(product, *first));
        for pass in 0..passes {
            units.iter_mut().for_each(|unit| unit.begin([pass, passes]));
            for slice in 0..input.slices() {
                let count = units.len();
                for (index, unit) in units.iter_mut().enumerate() {
                    // A task of one unit has an input that the caches hold.
                    unit.add_slice(slice, count > 1 && index + 1 == count, buffers);
                }
            }
            // SAFETY: no two units have the same rows of a weight.
            units.iter().for_each(|unit| unsafe { unit.write() });
        }
    });
    // SAFETY: the tasks had the units of all rows, and wrote all passes.
    products.into_iter().map(|product| unsafe { product.written() }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::view::WeightView;
    use super::*;
    use crate::packed::{Levels, get_code, put_code, words_per_row};
    use crate::rng::philox4x32_10;
    use crate::zo::direction::{Direction, Distribution, Move, ScaleMode};

    fn word(i: usize) -> u32 {
        philox4x32_10([i as u32, 1, 2, 3], [4, 5])[0]
    }

    /// Uniform in [−1, 1), and exact in bf16.
    fn float(i: usize) -> f32 {
        (word(i) >> 24) as f32 / 128.0 - 1.0
    }

    #[test]
    fn every_instruction_set_gives_the_product() {
        let displacement = Move {
            direction: Direction {
                distribution: Distribution::Rademacher,
                mode: ScaleMode::Relative,
                seed: 1,
                probe: 0,
            },
            coefficient: 0.125,
        };
        let both = [Some((9, displacement)), Some((9, displacement.reversed()))];
        // Groups of 20 fill no tiles, and the last one of 352 is short.
        for (input, group_size) in [(300, 20), (352, 64)] {
            compare(input, group_size, &both);
            compare(input, group_size, &[None]);
        }
    }

    /// Compares all instruction sets of this machine, not only the widest, on more tokens than a tile and a pass, two
    /// weights, several slices, and rows that fill no unit.
    fn compare(input: usize, group_size: usize, parts: &[Option<(u32, Move)>]) {
        let (tokens, bits) = (TOKENS + 38, 3);
        let groups = input.div_ceil(group_size);
        let x: Vec<f32> = (0..tokens * input).map(float).collect();
        let scales: Vec<f32> = (0..75 * groups).map(|i| float(i + 77)).collect();
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
            levels: Levels::Minimum(&minimum[..]),
            perm: None,
        };
        // The product, and the sum of its terms' magnitudes.
        let want = |t: usize, o: usize| -> [f64; 2] {
            let weight = |i: usize| {
                let group = o * groups + i / group_size;
                let scale = match parts[parts.len() * t / tokens] {
                    None => scales[group],
                    Some((parameter, moved)) => moved.apply(scales[group], moved.k(parameter, group as u32)),
                };
                let code = get_code(&codes[o * row..][..row], i, bits) as f32;
                if scale == 0.0 {
                    minimum[group].into()
                } else {
                    f64::from(scale) * f64::from(code + minimum[group])
                }
            };
            let terms = (0..input).map(|i| f64::from(x[t * input + i]) * weight(i));
            [terms.clone().sum(), terms.map(f64::abs).sum()]
        };
        for arithmetic in Arithmetic::all() {
            let products = [7, 75].map(|out| PackedProduct { weight: view(out), parts: parts.to_vec() });
            let y = packed_linear(&x, products.into(), arithmetic);
            for (out, y) in [7, 75].into_iter().zip(y) {
                for t in (0..tokens).step_by(29) {
                    for o in 0..out {
                        let (got, [want, magnitude]) = (f64::from(y[t * out + o]), want(t, o));
                        // Weights with their scales are rounded to bf16; levels are exact in it.
                        let rounds = arithmetic.features() > 1 && parts[0].is_none();
                        let limit = 2e-4 + if rounds { magnitude / 512.0 } else { 0.0 };
                        assert!((got - want).abs() < limit, "{arithmetic:?} {t} {o}: {got} {want}");
                    }
                }
            }
        }
    }
}
