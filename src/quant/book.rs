//! Codebooks: `weight = scale · entry(code)`, where an entry is one level or a short vector of them.

use super::FloatType;
use super::grid::{Group, scale_as_stored};

/// Quantiles of the normal distribution scaled to [−1, 1], with an exact 0 (Dettmers et al. 2023, QLoRA,
/// appendix E; the digits are those of bitsandbytes).
#[expect(clippy::excessive_precision, reason = "as published")]
pub const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

#[derive(Debug, Clone, PartialEq)]
pub struct Book {
    /// Of a code: `2^bits` entries.
    pub bits: u32,
    /// Features that share a code.
    pub width: usize,
    /// `[2^bits × width]`. Ascending where the width is 1.
    pub entries: Vec<f64>,
    /// What the file will hold.
    pub scale_dtype: FloatType,
}

impl Book {
    /// The widest vectors that are coded here.
    pub const WIDEST: usize = 8;

    pub fn nf4(scale_dtype: FloatType) -> Self {
        Self { bits: 4, width: 1, entries: NF4.map(f64::from).to_vec(), scale_dtype }
    }

    pub fn entry(&self, code: u32) -> &[f64] {
        &self.entries[code as usize * self.width..][..self.width]
    }

    /// The scale by which the largest weight of a group lies at ±1.
    pub(super) fn fit(&self, weights: &[f64]) -> Result<Group, String> {
        if let Some(i) = weights.iter().position(|w| !w.is_finite()) {
            return Err(format!("weight {i} of the group is {}", weights[i]));
        }
        let largest = weights.iter().fold(0f64, |largest, w| largest.max(w.abs()));
        let scale = scale_as_stored(if largest == 0.0 { 1.0 } else { largest }, self.scale_dtype)?;
        Ok(Group { scale, zero: 0 })
    }
}

/// Of a vector, row-major.
pub(super) type Metric = [[f64; Book::WIDEST]; Book::WIDEST];

/// Finds nearest entries at one place of many rows.
#[derive(Default)]
pub(super) struct Search {
    /// `[width][2^bits]`, as errors weigh at this place.
    entries: Vec<f32>,
    /// Half the squared length of each.
    lengths: Vec<f32>,
    scores: Vec<f32>,
    metric: Metric,
}

impl Search {
    /// `metric`: the error δ of a vector costs `‖δ·metric‖²`; lower triangular.
    pub fn prepare(&mut self, book: &Book, metric: Metric) {
        if book.width == 1 {
            return;
        }
        let count = 1 << book.bits;
        self.metric = metric;
        self.entries.resize(book.width * count, 0.0);
        self.lengths.clear();
        self.lengths.resize(count, 0.0);
        for (code, entry) in book.entries.chunks_exact(book.width).enumerate() {
            let column = |j: usize| entry.iter().zip(&metric).map(|(e, row)| e * row[j]).sum::<f64>();
            let moved = (0..book.width).map(column);
            self.lengths[code] = (0.5 * moved.clone().map(|value| value * value).sum::<f64>()) as f32;
            moved.enumerate().for_each(|(j, value)| self.entries[j * count + code] = value as f32);
        }
    }

    /// The code of the entry that costs least in place of `weights`.
    pub fn nearest(&mut self, book: &Book, weights: &[f64], scale: f32) -> u32 {
        if book.width == 1 {
            let level = weights[0] / f64::from(scale);
            let above = book.entries.partition_point(|entry| *entry < level);
            let (below, last) = (above.saturating_sub(1), book.entries.len() - 1);
            let above = above.min(last);
            let nearer = level - book.entries[below] <= book.entries[above] - level;
            return if nearer { below as u32 } else { above as u32 };
        }
        let count = self.lengths.len();
        self.scores.clear();
        self.scores.extend_from_slice(&self.lengths);
        for j in 0..book.width {
            let level: f64 = (0..=j).map(|i| weights[i] * self.metric[i][j]).sum();
            let level = (level / f64::from(scale)) as f32;
            for (score, entry) in self.scores.iter_mut().zip(&self.entries[j * count..][..count]) {
                *score -= level * entry;
            }
        }
        lowest(&self.scores)
    }
}

/// In two passes without a branch, which the compiler turns into vector code.
pub(super) fn lowest(scores: &[f32]) -> u32 {
    const LANES: usize = 16;
    let mut lowest = [f32::INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (lowest, score) in lowest.iter_mut().zip(chunk) {
            *lowest = if score < lowest { *score } else { *lowest };
        }
    }
    let lowest = lowest.iter().chain(rest).fold(f32::INFINITY, |a, b| a.min(*b));
    scores.iter().position(|score| *score == lowest).unwrap_or(0) as u32
}
