//! Attention as plain loops.

use burn::tensor::{DType, Tensor, TensorData};

use super::{TOLERANCE, Uniform, float, read, relative_error};
use crate::device::ComputeType;
use crate::kernels::{Kernels, KeyRanges, Scores, attention};

/// One attention over made-up numbers.
#[derive(Debug, Clone)]
pub(in crate::kernels) struct AttentionCase {
    /// Bounds of each query row, as in [`KeyRanges`].
    pub ranges: Vec<[i32; 4]>,
    /// Rows of `k` and `v`.
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub cap: Option<f32>,
}

impl AttentionCase {
    pub fn scores(&self) -> Scores {
        // Four times the scale of models keeps the scores in the range where rounding matters.
        Scores { scale: 1.0 / (self.head_dim as f32).sqrt() * 4.0, cap: self.cap }
    }

    pub fn shape_of_q(&self) -> [usize; 3] {
        [self.ranges.len(), self.heads, self.head_dim]
    }

    pub fn shape_of_k(&self) -> [usize; 3] {
        [self.keys, self.kv_heads, self.head_dim]
    }

    /// Values of `q`, `k` and `v` that every compute type holds exactly.
    pub fn inputs(&self) -> [Vec<f32>; 3] {
        let mut rng = Uniform(3);
        let [t, heads, dim] = self.shape_of_q();
        let lengths = [t * heads * dim, self.keys * self.kv_heads * dim, self.keys * self.kv_heads * dim];
        lengths.map(|n| rng.floats(n).into_iter().map(|x| (x * 128.0).round() / 128.0).collect())
    }

    /// The result of plain loops.
    pub fn want(&self, inputs: &[Vec<f32>; 3]) -> Vec<f64> {
        self.forward(&inputs.each_ref().map(|values| values.iter().map(|x| f64::from(*x)).collect()))
    }

    /// The result of plain loops.
    pub fn forward(&self, [q, k, v]: &[Vec<f64>; 3]) -> Vec<f64> {
        let mut want = vec![];
        self.each_query(q, k, |_, dim, keys, p| {
            let (scores, sum): (Vec<_>, f64) = (p.to_vec(), p.iter().sum());
            let value = |i: usize| keys.iter().zip(&scores).map(|(key, p)| p * v[key + i]).sum::<f64>() / sum;
            want.extend((0..dim).map(value));
        });
        want
    }

    /// Gradients of `Σ dy · forward(inputs)` with respect to the inputs.
    pub fn backward(&self, [q, k, v]: &[Vec<f64>; 3], dy: &[f64]) -> [Vec<f64>; 3] {
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|input| vec![0.0; input.len()]);
        let scores = self.scores();
        self.each_query(q, k, |at, dim, keys, p| {
            let sum: f64 = p.iter().sum();
            let dp: Vec<f64> =
                keys.iter().map(|key| (0..dim).map(|i| dy[at + i] * v[key + i]).sum()).collect();
            let total: f64 = p.iter().zip(&dp).map(|(p, dp)| p / sum * dp).sum();
            for ((key, p), dp) in keys.iter().zip(p).zip(dp) {
                // The exponential's logarithm is the score.
                let slope = scores.cap.map_or(1.0, |cap| 1.0 - (p.ln() / f64::from(cap)).powi(2));
                let ds = p / sum * (dp - total) * slope * f64::from(scores.scale);
                for i in 0..dim {
                    dq[at + i] += ds * k[key + i];
                    dk[key + i] += ds * q[at + i];
                    dv[key + i] += p / sum * dy[at + i];
                }
            }
        });
        [dq, dk, dv]
    }

    /// Calls `f` for each query with its place in `q`, the width of a head, the places of its keys in `k`, and the
    /// exponentials of their scores.
    fn each_query(&self, q: &[f64], k: &[f64], mut f: impl FnMut(usize, usize, &[usize], &[f64])) {
        let (dim, scores) = (self.head_dim, self.scores());
        let bounded =
            |score: f64| scores.cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
        for (row, range) in self.ranges.iter().enumerate() {
            for head in 0..self.heads {
                let kv_head = head / (self.heads / self.kv_heads);
                let at = (row * self.heads + head) * dim;
                let [a, b, c, d] = range.map(|bound| bound as usize);
                let places: Vec<usize> =
                    (a..b).chain(c..d).map(|key| (key * self.kv_heads + kv_head) * dim).collect();
                let product = |key: &usize| (0..dim).map(|i| q[at + i] * k[key + i]).sum::<f64>();
                let p: Vec<f64> =
                    places.iter().map(|key| bounded(f64::from(scores.scale) * product(key)).exp()).collect();
                f(at, dim, &places, &p);
            }
        }
    }
}

/// Query rows of every kind, and their number of keys.
pub(in crate::kernels) fn every_range() -> (Vec<[i32; 4]>, usize) {
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
    // Long ones after them: more rows and keys than any tile, the second of them behind a prefix, the third
    // with a window.
    let long = (0..70).map(|t| [0, 0, 9, 10 + t]).chain((0..45).map(|t| [9, 50, 79, 80 + t]));
    let window = (0..60).map(|t| [0, 0, 124 + (t - 20).max(0), 125 + t]);
    (ranges.into_iter().chain(long).chain(window).collect(), 184)
}

/// Heads of every width that tensor cores treat differently with every kind of row; one row and few.
pub(in crate::kernels) fn halves() -> Vec<AttentionCase> {
    let (ranges, keys) = every_range();
    let mut cases = vec![];
    for (i, (heads, kv_heads, head_dim)) in
        [(4, 2, 16), (3, 3, 64), (9, 3, 80), (2, 1, 96), (4, 1, 128), (2, 2, 144), (2, 1, 256)]
            .into_iter()
            .enumerate()
    {
        let cap = (i % 2 == 0).then_some(2.5);
        cases.push(AttentionCase { ranges: ranges.clone(), keys, heads, kv_heads, head_dim, cap });
    }
    cases.push(AttentionCase {
        ranges: vec![[0, 0, 0, 1]],
        keys: 1,
        heads: 2,
        kv_heads: 2,
        head_dim: 64,
        cap: None,
    });
    cases.push(AttentionCase {
        ranges: vec![[0, 3, 5, 70]; 3],
        keys: 70,
        heads: 5,
        kv_heads: 1,
        head_dim: 128,
        cap: None,
    });
    cases
}

pub(super) fn bounds<B: Kernels>(case: &AttentionCase, device: &B::Device) -> KeyRanges<B> {
    let bounds = TensorData::new(case.ranges.concat(), [4 * case.ranges.len()]);
    KeyRanges { bounds: Tensor::from_data(bounds, (device, DType::I32)) }
}

fn run<B: Kernels>(
    case: &AttentionCase,
    inputs: &[Vec<f32>; 3],
    dtype: DType,
    device: &B::Device,
) -> Vec<f32> {
    let keys = bounds::<B>(case, device);
    let shapes = [case.shape_of_q(), case.shape_of_k(), case.shape_of_k()];
    let [q, k, v] = std::array::from_fn(|i| float::<B, 3>(&inputs[i], shapes[i], device).cast(dtype));
    read(attention(q, k, v, &keys, case.scores()).cast(DType::F32))
}

pub(super) fn attention_matches_the_loops<B: Kernels>(device: &B::Device) {
    let (ranges, keys) = every_range();
    for (heads, kv_heads, head_dim) in
        [(4, 2, 16), (3, 3, 21), (9, 3, 64), (2, 1, 128), (2, 1, 252), (1, 1, 600)]
    {
        // A small cap for the narrow heads alone, so that every size of tile is tested without one, too.
        let cap = (head_dim < 64).then_some(0.5);
        let case = AttentionCase { ranges: ranges.clone(), keys, heads, kv_heads, head_dim, cap };
        let inputs = case.inputs();
        let error = relative_error(&run::<B>(&case, &inputs, DType::F32, device), &case.want(&inputs));
        assert!(error < TOLERANCE, "{heads}/{kv_heads} heads of {head_dim}: {error:e}");
    }
}

pub(super) fn attention_in_half_precision_is_within_its_rounding<B: Kernels>(device: &B::Device) {
    for (compute, tolerance) in [(ComputeType::F16, 1e-3), (ComputeType::Bf16, 8e-3)] {
        if !B::supports(compute, device) {
            eprintln!("SKIPPED: no {compute} here");
            continue;
        }
        for case in halves() {
            let inputs = case.inputs();
            let got = run::<B>(&case, &inputs, B::tensor_type(compute), device);
            let error = relative_error(&got, &case.want(&inputs));
            assert!(error < tolerance, "{compute} {case:?}: {error:e}");
        }
    }
}
