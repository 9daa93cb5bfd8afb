//! Against independent implementations.

use super::grid::{self, Grid};
use super::*;
use crate::packed::{FloatType, Levels, PackedWeight, get_code};
use serde_json::Value;

/// Written by `scripts/fixtures_rtn.py`, an independent numpy implementation.
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rtn/reference.json");

fn integers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    integers(value).into_iter().map(f32::from_bits).collect()
}

fn options(bits: u32, symmetric: bool, group_size: Option<usize>) -> QuantOptions {
    QuantOptions {
        kind: CodeKind::Integer { bits, symmetric, mse: false },
        group_size,
        ..QuantOptions::default()
    }
}

fn codes(packed: &PackedWeight) -> Vec<u32> {
    let words = packed.words_per_row();
    let row =
        |row: &[u32]| (0..packed.codes_per_row()).map(|i| get_code(row, i, packed.bits)).collect::<Vec<_>>();
    packed.codes.chunks_exact(words).flat_map(row).collect()
}

fn zeros(packed: &PackedWeight) -> Vec<u32> {
    match &packed.levels {
        Levels::Zero(zero) => vec![u32::from(*zero); packed.scales.len()],
        Levels::Zeros(zeros) => zeros.iter().map(|&z| u32::from(z)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn integers_and_scales_equal_the_numpy_reference() {
    let reference: Value = serde_json::from_slice(&std::fs::read(REFERENCE).unwrap()).unwrap();
    let shape = [0, 1].map(|i| reference["shape"][i].as_u64().unwrap() as usize);
    let weight = floats(&reference["weight_bits"]);
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4 * 2 * 3);
    for case in cases {
        let options = options(
            case["bits"].as_u64().unwrap() as u32,
            case["symmetric"].as_bool().unwrap(),
            case["group_size"].as_u64().map(|g| g as usize),
        );
        let packed = quantize(&weight, shape, options).unwrap();
        assert_eq!(codes(&packed), integers(&case["codes"]), "{options:?}");
        assert_eq!(packed.scales, floats(&case["scale_bits"]), "{options:?}");
        assert_eq!(zeros(&packed), integers(&case["zeros"]), "{options:?}");
    }
}

#[test]
fn a_group_of_zeros_stays_zero() {
    for symmetric in [true, false] {
        let packed = quantize(&[0.0; 10], [2, 5], options(4, symmetric, Some(4))).unwrap();
        assert!(packed.scales.iter().all(|s| *s > 0.0));
        assert_eq!(packed.to_dense(), [0.0; 10]);
    }
}

#[test]
fn weights_below_the_smallest_scale_do_not_divide_by_zero() {
    let packed = quantize(&[1e-9, -1e-9], [1, 2], QuantOptions::default()).unwrap();
    assert!(packed.to_dense().iter().all(|w| w.is_finite()));
}

#[test]
fn a_weight_that_is_not_finite_or_too_large_is_refused() {
    for kind in [QuantOptions::default().kind, CodeKind::NormalFloat, CodeKind::Learned { bits: 2, width: 1 }]
    {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let options = QuantOptions { kind, ..QuantOptions::default() };
            let error = quantize(&[0.0, bad, 0.0, 0.0], [2, 2], options).unwrap_err();
            assert!(error.to_string().contains("row 0"), "{error}");
        }
    }
    let error = quantize(&[0.0, 3e38, 0.0, 0.0], [2, 2], QuantOptions::default()).unwrap_err();
    assert!(error.to_string().contains("row 0, group 0"), "{error}");
    assert!(quantize(&[0.0; 4], [2, 2], options(5, true, None)).is_err());
    assert!(quantize(&[0.0; 4], [2, 2], options(4, true, Some(0))).is_err());
    assert!(quantize(&[0.0; 4], [usize::MAX, 2], QuantOptions::default()).is_err());
}

/// Uniform in [−1, 1).
struct Move(u64);

impl Move {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// A weight, the Gram matrix of correlated inputs whose features are of different sizes, one of them dead.
fn layer(out: usize, n: usize) -> (Vec<f32>, Vec<f32>) {
    let mut noise = Move(7);
    let weight = (0..out * n).map(|_| (noise.next() + noise.next() + noise.next()) as f32).collect();
    let mix: Vec<f64> = (0..n * n / 4).map(|_| noise.next()).collect();
    let mut gram = vec![0.0; n * n];
    for _ in 0..4 * n {
        let hidden: Vec<f64> = (0..n / 4).map(|_| noise.next()).collect();
        let x: Vec<f64> = (0..n)
            .map(|i| {
                let shared: f64 = hidden.iter().zip(&mix[i * (n / 4)..]).map(|(h, m)| h * m).sum();
                let size = if i == 5 { 0.0 } else { 1.0 + 4.0 * ((i * 7 % 11) as f64 / 11.0).powi(3) };
                size * (shared + 0.3 * noise.next())
            })
            .collect();
        for i in 0..n {
            (0..n).for_each(|j| gram[i * n + j] += x[i] * x[j]);
        }
    }
    (weight, gram.into_iter().map(|g| g as f32).collect())
}

/// Gauss–Jordan, with no Cholesky anywhere.
fn inverse(matrix: &[f64], n: usize) -> Vec<f64> {
    let (mut a, mut b) = (matrix.to_vec(), vec![0.0; n * n]);
    (0..n).for_each(|i| b[i * n + i] = 1.0);
    for i in 0..n {
        let p = a[i * n + i];
        for j in 0..n {
            (a[i * n + j], b[i * n + j]) = (a[i * n + j] / p, b[i * n + j] / p);
        }
        for r in (0..n).filter(|r| *r != i) {
            let f = a[r * n + i];
            for j in 0..n {
                a[r * n + j] -= f * a[i * n + j];
                b[r * n + j] -= f * b[i * n + j];
            }
        }
    }
    b
}

/// GPTQ as optimal brain quantization says it: after each feature the rest of the row is moved by the
/// inverse Hessian of the features that remain, which is computed anew; no Cholesky, no blocks.
/// Codes in the order in which features are quantized.
fn gptq(
    weight: &[f32],
    gram: &[f32],
    n: usize,
    order: &[usize],
    group_size: usize,
    grid: Grid,
    static_groups: bool,
) -> Vec<Vec<u32>> {
    let mean = (0..n).map(|i| f64::from(gram[i * n + i])).sum::<f64>() / n as f64;
    let dead = |i: usize| gram[i * n + i] == 0.0;
    let hessian = |i: usize, j: usize| match i == j {
        true if dead(i) => mean,
        same => f64::from(gram[i * n + j]) + if same { 0.1 * mean } else { 0.0 },
    };
    let mut rows: Vec<Vec<f64>> = weight
        .chunks(n)
        .map(|row| order.iter().map(|&i| if dead(i) { 0.0 } else { f64::from(row[i]) }).collect())
        .collect();
    let fixed: Vec<Vec<grid::GroupScale>> = rows
        .iter()
        .map(|row| {
            let mut natural = vec![0.0; n];
            order.iter().zip(row).for_each(|(&i, w)| natural[i] = *w);
            natural.chunks(group_size).map(|group| grid.fit(group, None).unwrap()).collect()
        })
        .collect();
    let mut groups = vec![grid::GroupScale::default(); rows.len()];
    let mut codes = vec![vec![]; rows.len()];
    for place in 0..n {
        let rest = &order[place..];
        let m = rest.len();
        let remaining: Vec<f64> = (0..m * m).map(|i| hessian(rest[i / m], rest[i % m])).collect();
        let inverse = inverse(&remaining, m);
        for (r, row) in rows.iter_mut().enumerate() {
            if static_groups {
                groups[r] = fixed[r][order[place] / group_size];
            } else if place % group_size == 0 {
                groups[r] = grid.fit(&row[place..(place + group_size).min(n)], None).unwrap();
            }
            let code = grid.code(row[place], groups[r]);
            let error = row[place] - grid.value(code, groups[r]);
            codes[r].push(code);
            for j in 0..m {
                row[place + j] -= error / inverse[0] * inverse[j];
            }
        }
    }
    codes
}

#[test]
fn codes_with_feedback_equal_optimal_brain_quantization_step_by_step() {
    let (out, n) = (40, 72);
    let (weight, gram) = layer(out, n);
    let natural: Vec<usize> = (0..n).collect();
    let mut descending = natural.clone();
    descending.sort_by(|&a, &b| gram[b * n + b].total_cmp(&gram[a * n + a]));
    for (bits, symmetric) in [(4, true), (4, false), (3, false), (2, true), (8, false)] {
        for group_size in [None, Some(24), Some(16), Some(50)] {
            for (act_order, static_groups) in [(false, false), (true, false), (true, true), (false, true)] {
                let mut options = options(bits, symmetric, group_size);
                options.feedback = Feedback { act_order, static_groups, ..Feedback::default() };
                let order = if act_order { &descending } else { &natural };
                let grid = Grid { bits, symmetric, mse: false, scale_dtype: FloatType::F16 };
                let want = gptq(&weight, &gram, n, order, group_size.unwrap_or(n), grid, static_groups);
                let (packed, _) = calibrate(&weight, [out, n], options, &gram).unwrap();
                let got = codes(&packed);
                let mut different = 0;
                for (row, want) in want.iter().enumerate() {
                    for (place, want) in want.iter().enumerate() {
                        // Static groups are stored in the model's order.
                        let place = if static_groups { order[place] } else { place };
                        different += usize::from(got[row * n + place] != *want);
                    }
                }
                assert_eq!(different, 0, "{options:?}");
                let stored = (act_order && !static_groups).then(|| order.iter().map(|&i| i as u32).collect());
                assert_eq!(packed.perm, stored);
            }
        }
    }
}

#[test]
fn feedback_at_least_halves_the_error_of_a_correlated_layer() {
    let (out, n) = (64, 256);
    let (weight, gram) = layer(out, n);
    for kind in [
        CodeKind::Integer { bits: 4, symmetric: true, mse: false },
        CodeKind::Integer { bits: 3, symmetric: false, mse: true },
        CodeKind::NormalFloat,
        CodeKind::Learned { bits: 3, width: 1 },
        CodeKind::Learned { bits: 6, width: 2 },
        CodeKind::Learned { bits: 8, width: 4 },
    ] {
        let error = |act_order, static_groups| {
            let feedback = Feedback { act_order, static_groups, ..Feedback::default() };
            let options = QuantOptions { kind, group_size: Some(64), feedback, ..QuantOptions::default() };
            let (packed, error) = calibrate(&weight, [out, n], options, &gram).unwrap();
            println!("{kind:?} act_order {act_order} static {static_groups}: {error:?}");
            assert_eq!(packed.perm.is_some(), options.layout(64).ordered, "{kind:?}");
            assert!(packed.perm.is_none() || matches!(kind, CodeKind::Integer { .. }), "{kind:?}");
            error
        };
        let plain = error(false, false);
        assert!(plain.feedback < 0.5 * plain.nearest, "{kind:?}: {plain:?}");
        let ordered = error(true, false);
        assert!(ordered.feedback < plain.feedback, "{kind:?}: {plain:?}, in order {ordered:?}");
        error(true, true);
    }
}

/// Tries in plain loops everything that the range search may choose by the text of `grid`: the whole range,
/// and shares of it from 25 to 49 fiftieths with the zero point of the whole range or, where every group
/// has its own, one beside it. The costs of the whole range, of the best choice, and of `chosen`.
fn search_in_loops(grid: Grid, weights: &[f64], importance: &[f64], chosen: grid::GroupScale) -> [f64; 3] {
    let most = (1 << grid.bits) - 1;
    let stored = |scale: f64| f64::from(half::f16::from_f32(scale as f32).to_f32());
    let cost = |scale: f64, zero: i64| {
        let nearest = |weight: f64| {
            let errors = (0..=most).map(|code| (weight - scale * (code - zero) as f64).powi(2));
            errors.fold(f64::INFINITY, f64::min)
        };
        weights.iter().zip(importance).map(|(weight, importance)| importance * nearest(*weight)).sum::<f64>()
    };
    let low = weights.iter().copied().fold(0.0, f64::min);
    let high = weights.iter().copied().fold(0.0, f64::max);
    let span = if grid.symmetric { 2.0 * f64::max(-low, high) } else { high - low };
    let whole = stored(span / most as f64);
    let zero = match grid.symmetric {
        true => 1 << (grid.bits - 1),
        false => ((-low / whole).round_ties_even() as i64).clamp(0, most),
    };
    let of_whole = cost(whole, zero);
    let mut least = of_whole;
    for share in 25..50 {
        let scale = stored(whole * f64::from(share) / 50.0);
        let zeros = if grid.symmetric { zero..=zero } else { (zero - 1).max(0)..=(zero + 1).min(most) };
        least = zeros.map(|zero| cost(scale, zero)).fold(least, f64::min);
    }
    [of_whole, least, cost(f64::from(chosen.scale), i64::from(chosen.zero))]
}

#[test]
fn the_range_search_finds_the_best_of_all_ranges_it_may_choose() {
    let mut noise = Move(3);
    let (mut searched, mut smaller) = (0, 0);
    for bits in [2, 3, 4, 8] {
        for symmetric in [true, false] {
            let grid = Grid { bits, symmetric, mse: true, scale_dtype: FloatType::F16 };
            for case in 0..24 {
                // Of all signs and of one, with outliers and without, with weights that are exactly 0.
                let length = [7, 32, 128][case % 3];
                let mut weights: Vec<f64> = (0..length).map(|_| noise.next() + noise.next()).collect();
                match case / 3 % 4 {
                    0 => weights[3] *= 9.0,
                    1 => weights.iter_mut().for_each(|weight| *weight = weight.abs()),
                    2 => weights.iter_mut().for_each(|weight| *weight = -0.01 * weight.abs()),
                    _ => weights.iter_mut().step_by(2).for_each(|weight| *weight = 0.0),
                }
                let importance: Vec<f64> = (0..length).map(|i| noise.next().abs() * (i % 5) as f64).collect();
                let alike = vec![1.0; length];
                for importance in [None, Some(&importance[..])] {
                    let group = grid.fit(&weights, importance).unwrap();
                    let [whole, least, chosen] =
                        search_in_loops(grid, &weights, importance.unwrap_or(&alike), group);
                    let what = format!("{bits} bits, symmetric {symmetric}, case {case}: {group:?}");
                    assert!((chosen - least).abs() <= 1e-9 * least, "{what}: {chosen:e}, not {least:e}");
                    assert!(chosen <= whole * (1.0 + 1e-9), "{what}: {chosen:e}, whole {whole:e}");
                    searched += 1;
                    smaller += usize::from(chosen < 0.999 * whole);
                }
            }
        }
    }
    println!("{smaller} of {searched} groups have a smaller range");
    assert!(smaller > searched / 2, "{smaller} of {searched}");
}

/// Whatever the rows are given in.
#[test]
fn a_matrix_that_comes_in_rows_is_quantized_as_a_whole_one() {
    let shape = [150, 48];
    let weight: Vec<f32> =
        (0..shape[0] * shape[1]).map(|i| ((i * 7919 % 1009) as f32 - 500.0) * 1e-3).collect();
    let rounded = |weight: &[f32], options: QuantOptions, at_a_time: usize| {
        let mut rounding = Rounding::new(shape, options)?;
        for weight in weight.chunks(at_a_time * shape[1]) {
            let rows = |rows: std::ops::Range<usize>, into: &mut [f32]| {
                into.copy_from_slice(&weight[rows.start * shape[1]..rows.end * shape[1]]);
            };
            rounding.push(weight.len() / shape[1], &rows)?;
        }
        rounding.finish()
    };
    for kind in [
        CodeKind::Integer { bits: 3, symmetric: false, mse: false },
        CodeKind::Integer { bits: 4, symmetric: true, mse: true },
        CodeKind::NormalFloat,
    ] {
        let options = QuantOptions { kind, group_size: Some(32), ..QuantOptions::default() };
        let whole = quantize(&weight, shape, options).unwrap();
        for at_a_time in [1, 7, 64, 150] {
            assert_eq!(rounded(&weight, options, at_a_time).unwrap(), whole, "{kind:?} {at_a_time}");
        }
    }
    let options = QuantOptions { group_size: Some(32), ..QuantOptions::default() };
    let mut bad = weight.clone();
    bad[140 * shape[1] + 33] = f32::NAN;
    let error = rounded(&bad, options, 60).unwrap_err();
    assert!(error.to_string().contains("row 140, group 1: weight 1 of the group is NaN"), "{error}");
    let more = [&weight[..], &weight[..shape[1]]].concat();
    assert!(rounded(&more, options, 60).unwrap_err().to_string().contains("151 rows of 150"));
    assert!(rounded(&weight[shape[1]..], options, 60).unwrap_err().to_string().contains("149 rows of 150"));
    let learned = QuantOptions { kind: CodeKind::Learned { bits: 2, width: 2 }, ..options };
    assert!(rounded(&weight, learned, 60).is_err());
    assert!(Rounding::new([0, 48], QuantOptions::default()).is_err());
}
