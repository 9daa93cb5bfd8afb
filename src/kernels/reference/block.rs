//! What a decoder block does between its products.

use burn::tensor::{DType, Tensor, TensorData};

use super::{TOLERANCE, Uniform, float, read, relative_error};
use crate::kernels::{Gate, Kernels, KeyRanges, Scores, attention, gate_mul, rms_norm, rotate};

pub(super) fn attention_matches_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(3);
    // Two packed sequences, one with a window, rows that continue a prefix, and one that sees everything.
    let ranges = [
        [0, 0, 0, 1],
        [0, 0, 0, 2],
        [0, 0, 1, 3],
        [0, 3, 3, 4],
        [0, 3, 3, 5],
        [1, 2, 4, 6],
        [0, 0, 4, 7],
        [0, 4, 4, 9],
    ];
    // Long ones after them: more rows and keys than any tile, the second of them behind a prefix.
    let long = (0..70).map(|t| [0, 0, 9, 10 + t]).chain((0..45).map(|t| [9, 50, 79, 80 + t]));
    let ranges: Vec<[i32; 4]> = ranges.into_iter().chain(long).collect();
    for (heads, kv_heads, dim) in [(4, 2, 16), (3, 3, 21), (9, 3, 64), (2, 1, 128), (2, 1, 252), (1, 1, 600)]
    {
        let (t, s, scale) = (ranges.len(), 124, 0.3f32);
        let (q, k, v) =
            (rng.floats(t * heads * dim), rng.floats(s * kv_heads * dim), rng.floats(s * kv_heads * dim));
        let bounds: Vec<i32> = ranges.concat();
        let keys = KeyRanges::<B> {
            bounds: Tensor::from_data(TensorData::new(bounds, [4 * t]), (device, DType::I32)),
        };
        let kv = |x: &[f32]| float::<B, 3>(x, [s, kv_heads, dim], device);
        // A small cap for the narrow heads alone: every size of tile comes without one, too.
        let cap = (dim < 64).then_some(0.5f32);
        let scores = Scores { scale, cap };
        let got = read(attention(float(&q, [t, heads, dim], device), kv(&k), kv(&v), &keys, scores));
        let bounded = |score: f64| cap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh());
        let mut want = vec![];
        for (row, range) in ranges.iter().enumerate() {
            for head in 0..heads {
                let at = |key: usize, i: usize| (key * kv_heads + head / (heads / kv_heads)) * dim + i;
                let q = &q[(row * heads + head) * dim..][..dim];
                let [a, b, c, d] = range.map(|bound| bound as usize);
                let keys = (a..b).chain(c..d);
                let score =
                    |key: usize| (0..dim).map(|i| f64::from(q[i]) * f64::from(k[at(key, i)])).sum::<f64>();
                let p: Vec<f64> =
                    keys.clone().map(|key| bounded(f64::from(scale) * score(key)).exp()).collect();
                let sum: f64 = p.iter().sum();
                want.extend((0..dim).map(|i| {
                    keys.clone().zip(&p).map(|(key, p)| p * f64::from(v[at(key, i)])).sum::<f64>() / sum
                }));
            }
        }
        let error = relative_error(&got, &want);
        assert!(error < TOLERANCE, "{heads}/{kv_heads} heads of {dim}: {error:e}");
    }
}

pub(super) fn norm_rotation_and_gate_match_the_loops<B: Kernels>(device: &B::Device) {
    let mut rng = Uniform(21);
    for (rows, heads, dim) in [(1, 1, 2), (19, 3, 20), (5, 9, 64)] {
        let hidden = heads * dim;
        let (x, up, w) = (rng.floats(rows * hidden), rng.floats(rows * hidden), rng.floats(hidden));
        let wide = |x: &[f32]| float::<B, 2>(x, [rows, hidden], device);

        let got = read(rms_norm(wide(&x), float(&w, [hidden], device), 1e-5));
        let mut want = vec![];
        for x in x.chunks(hidden) {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / hidden as f64;
            want.extend(x.iter().zip(&w).map(|(x, w)| f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w)));
        }
        assert!(relative_error(&got, &want) < TOLERANCE, "norm {rows}×{hidden}");

        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        for activation in [Gate::Silu, Gate::GeluTanh] {
            let got = read(gate_mul(wide(&x), wide(&up), activation));
            let activated = |x: f64| match activation {
                Gate::Silu => x * sigmoid(x),
                Gate::GeluTanh => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                    0.5 * x * (1.0 + inner.tanh())
                }
            };
            let want: Vec<f64> =
                x.iter().zip(&up).map(|(x, u)| activated(f64::from(*x)) * f64::from(*u)).collect();
            assert!(relative_error(&got, &want) < TOLERANCE, "{activation:?} {rows}×{hidden}");
        }

        let half = dim / 2;
        let (cos, sin) = (rng.floats(rows * half), rng.floats(rows * half));
        let angles = |x: &[f32]| float::<B, 2>(x, [rows, half], device);
        let got = read(rotate(float::<B, 3>(&x, [rows, heads, dim], device), angles(&cos), angles(&sin)));
        let want: Vec<f64> = (0..x.len())
            .map(|i| {
                let (t, d) = (i / hidden, i % dim);
                let (c, s) = (f64::from(cos[t * half + d % half]), f64::from(sin[t * half + d % half]));
                let other = if d < half { -f64::from(x[i + half]) } else { f64::from(x[i - half]) };
                f64::from(x[i]) * c + other * s
            })
            .collect();
        assert!(relative_error(&got, &want) < TOLERANCE, "rotation {rows}×{heads}×{dim}");
    }
}
