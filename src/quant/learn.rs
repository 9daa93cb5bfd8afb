//! Codebooks fitted to a weight: Lloyd's iteration (1957; Max 1960) on scalars or short vectors, every
//! feature weighted by the cost of its error, with the scales of the groups fitted in the same rounds.

use rayon::prelude::*;

use super::book::{Book, EntrySearch, ErrorMetric};
use super::coding::{BAD_WEIGHT, DenseMatrix};
use super::grid::{GroupScale, scale_as_stored};
use crate::error::{Error, Result};
use crate::packed::FloatType;

const ROUNDS: usize = 20;

/// Rounds in which the scales of all rows are fitted to the finished codebook.
const SCALE_ROUNDS: usize = 4;

/// Number of vectors that the codebook is fitted to, and the least number for each entry.
const SAMPLES: usize = 1 << 16;
const SAMPLES_PER_ENTRY: usize = 64;

/// Rows whose sums are added up together; a fixed number, so that the result does not depend on the threads.
const ROWS: usize = 16;

/// A codebook and the scales that go with it, `[out_features × groups]`.
///
/// `importance`: the cost of an error in each feature.
///
/// # Errors
/// A weight that is not finite, or a scale that `scale_dtype` cannot hold.
pub fn learn(
    matrix: DenseMatrix<'_>,
    importance: &[f64],
    bits: u32,
    width: usize,
    scale_dtype: FloatType,
) -> Result<(Book, Vec<GroupScale>)> {
    let (n, out) = (matrix.in_features, matrix.out_features());
    if let Some(i) = matrix.weight.iter().position(|w| !w.is_finite()) {
        let what = format!("row {}: weight {} is {}", i / n, i % n, matrix.weight[i]);
        return Err(Error::invalid(what, BAD_WEIGHT));
    }
    let mean = importance.iter().sum::<f64>() / n as f64;
    // No importance is 0: groups of dead features alone need a scale, too.
    let importance: Vec<f64> =
        importance.iter().map(|i| (i / mean.max(f64::MIN_POSITIVE)).max(1e-6)).collect();
    let wanted = SAMPLES.max(SAMPLES_PER_ENTRY << bits).div_ceil(n / width);
    let step = (out / wanted).max(1);
    let sample: Vec<f32> = matrix.weight.chunks_exact(n).step_by(step).flatten().copied().collect();
    let sample = Learner { matrix: DenseMatrix { weight: &sample, ..matrix }, importance: &importance };
    let mut scales = sample.first_scales();
    let mut book = Book { bits, width, entries: sample.first_entries(&scales, bits, width), scale_dtype };
    for _ in 0..ROUNDS {
        book.entries = sample.round(&book, &mut scales);
    }
    // Rounded to the type that the file will hold.
    book.entries.iter_mut().for_each(|entry| *entry = FloatType::F16.round(*entry as f32).into());
    if width == 1 {
        book.entries.sort_by(f64::total_cmp);
    }
    let all = Learner { matrix, importance: &importance };
    let mut scales = all.first_scales();
    for _ in 0..SCALE_ROUNDS {
        all.round(&book, &mut scales);
    }
    let groups: Result<Vec<GroupScale>, String> = scales
        .into_iter()
        .map(|scale| Ok(GroupScale { scale: scale_as_stored(scale, scale_dtype)?, zero: 0 }))
        .collect();
    Ok((book, groups.map_err(|what| Error::invalid(what, BAD_WEIGHT))?))
}

struct Learner<'a> {
    matrix: DenseMatrix<'a>,
    /// Cost of an error in each feature, 1 on average.
    importance: &'a [f64],
}

impl Learner<'_> {
    /// The root mean square of each group.
    fn first_scales(&self) -> Vec<f64> {
        let DenseMatrix { weight, in_features, group_size, .. } = self.matrix;
        let rms = |(weights, importance): (&[f32], &[f64])| {
            let (sum, total) = weights
                .iter()
                .zip(importance)
                .fold((0.0, 0.0), |(sum, total), (w, i)| (sum + i * f64::from(*w).powi(2), total + i));
            if sum == 0.0 { 1.0 } else { (sum / total).sqrt() }
        };
        weight
            .chunks_exact(in_features)
            .flat_map(|row| row.chunks(group_size).zip(self.importance.chunks(group_size)).map(rms))
            .collect()
    }

    /// Vectors of the sample, at even distances among all sorted by length.
    fn first_entries(&self, scales: &[f64], bits: u32, width: usize) -> Vec<f64> {
        let DenseMatrix { weight, in_features, group_size, .. } = self.matrix;
        let mut vectors: Vec<(f64, Vec<f64>)> = weight
            .chunks_exact(width)
            .enumerate()
            .map(|(i, vector)| {
                let (row, feature) = (i * width / in_features, i * width % in_features);
                let scale = scales[row * self.matrix.groups() + feature / group_size];
                let vector: Vec<f64> = vector.iter().map(|w| f64::from(*w) / scale).collect();
                let length = if width == 1 { vector[0] } else { vector.iter().map(|v| v * v).sum() };
                (length, vector)
            })
            .collect();
        vectors.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = 1 << bits;
        (0..count).flat_map(|i| vectors[(2 * i + 1) * vectors.len() / (2 * count)].1.clone()).collect()
    }

    /// Gives every vector its nearest entry, every group the scale that then fits best, and returns the
    /// entries that fit best to the scales as they were.
    fn round(&self, book: &Book, scales: &mut [f64]) -> Vec<f64> {
        let (n, groups) = (self.matrix.in_features, self.matrix.groups());
        let sums: Vec<EntrySums> = self
            .matrix
            .weight
            .par_chunks(ROWS * n)
            .zip(scales.par_chunks_mut(ROWS * groups))
            .map(|(weights, scales)| self.assign(book, weights, scales))
            .collect();
        let mut entries = book.entries.clone();
        for (i, entry) in entries.iter_mut().enumerate() {
            let (of, by) = sums.iter().fold((0.0, 0.0), |(of, by), sums| (of + sums.of[i], by + sums.by[i]));
            *entry = if by > 0.0 { of / by } else { *entry };
        }
        entries
    }

    fn assign(&self, book: &Book, weights: &[f32], scales: &mut [f64]) -> EntrySums {
        let (n, group_size, groups) = (self.matrix.in_features, self.matrix.group_size, self.matrix.groups());
        let mut sums = EntrySums { of: vec![0.0; book.entries.len()], by: vec![0.0; book.entries.len()] };
        // For each group: Σ importance · weight · entry, and Σ importance · entry².
        let mut fits = vec![(0.0, 0.0); scales.len()];
        let mut search = EntrySearch::default();
        let mut vector = [0.0; Book::WIDEST];
        for place in (0..n).step_by(book.width) {
            let importance = &self.importance[place..place + book.width];
            let mut metric = ErrorMetric::default();
            importance.iter().enumerate().for_each(|(i, importance)| metric[i][i] = importance.sqrt());
            search.prepare(book, metric);
            for (row, weights) in weights.chunks_exact(n).enumerate() {
                let group = row * groups + place / group_size;
                let scale = scales[group];
                let vector = &mut vector[..book.width];
                for (v, w) in vector.iter_mut().zip(&weights[place..]) {
                    *v = f64::from(*w);
                }
                let code = search.nearest(book, vector, scale as f32);
                let fit = &mut fits[group];
                for (j, (w, importance)) in vector.iter().zip(importance).enumerate() {
                    let at = code as usize * book.width + j;
                    let entry = book.entries[at];
                    sums.of[at] += importance * scale * w;
                    sums.by[at] += importance * scale * scale;
                    fit.0 += importance * w * entry;
                    fit.1 += importance * entry * entry;
                }
            }
        }
        for (scale, (of, by)) in scales.iter_mut().zip(fits) {
            // A group that no positive scale fits keeps the one it has.
            *scale = if of > 0.0 && by > 0.0 { of / by } else { *scale };
        }
        sums
    }
}

/// Sums whose quotient `of / by` is each entry, `[2^bits × width]`.
struct EntrySums {
    of: Vec<f64>,
    by: Vec<f64>,
}
