//! Codebooks: `weight = scale · entry(code)`, where an entry is one level or a short vector of them.

use super::grid::{GroupScale, scale_as_stored};
use crate::kernels::multiversion;
use crate::packed::FloatType;

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

/// A codebook of `2^bits` entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Book {
    /// Bits per code.
    pub bits: u32,
    /// Features that share a code.
    pub width: usize,
    /// `[2^bits × width]`. Ascending where the width is 1.
    pub entries: Vec<f64>,
    /// Type of the scales in the file.
    pub scale_dtype: FloatType,
}

impl Book {
    /// Width of the widest vectors that can be coded.
    pub const WIDEST: usize = 8;

    pub fn nf4(scale_dtype: FloatType) -> Self {
        Self { bits: 4, width: 1, entries: NF4.map(f64::from).to_vec(), scale_dtype }
    }

    pub fn entry(&self, code: u32) -> &[f64] {
        &self.entries[code as usize * self.width..][..self.width]
    }

    /// The scale that puts the largest weight of a group at ±1.
    pub(super) fn fit(&self, weights: &[f64]) -> Result<GroupScale, String> {
        if let Some(i) = weights.iter().position(|w| !w.is_finite()) {
            return Err(format!("weight {i} of the group is {}", weights[i]));
        }
        let largest = weights.iter().fold(0f64, |largest, w| largest.max(w.abs()));
        let scale = scale_as_stored(if largest == 0.0 { 1.0 } else { largest }, self.scale_dtype)?;
        Ok(GroupScale { scale, zero: 0 })
    }
}

/// A matrix M, row-major and upper triangular: an error δ of a vector costs `‖δ·M‖²`.
pub(super) type ErrorMetric = [[f64; Book::WIDEST]; Book::WIDEST];

/// Entries that are compared together, one in each lane.
const LANES: usize = 16;

/// Search for the nearest entries of one book, at one place of many rows after the other.
#[derive(Default)]
pub(super) struct EntrySearch {
    /// The book's entries, `[2^bits / LANES][width]`.
    plain: Vec<[f32; LANES]>,
    /// The entries times the metric of the current place.
    entries: Vec<[f32; LANES]>,
    /// Half the squared length of each of `entries`; infinite in lanes without an entry.
    lengths: Vec<[f32; LANES]>,
    scores: Vec<[f32; LANES]>,
    metric: ErrorMetric,
}

impl EntrySearch {
    /// Sets the metric of a place.
    pub fn prepare(&mut self, book: &Book, metric: ErrorMetric) {
        if book.width == 1 {
            return;
        }
        if self.plain.is_empty() {
            self.lay_out(book);
        }
        self.metric = metric;
        weigh(book.width, &metric, &self.plain, &mut self.entries, &mut self.lengths);
        // Lanes without an entry never win.
        let count = book.entries.len() / book.width;
        self.lengths.as_flattened_mut()[count..].fill(f32::INFINITY);
    }

    fn lay_out(&mut self, book: &Book) {
        let chunks = (1usize << book.bits).div_ceil(LANES);
        self.plain.resize(chunks * book.width, [0.0; LANES]);
        self.entries.resize(chunks * book.width, [0.0; LANES]);
        self.lengths.resize(chunks, [0.0; LANES]);
        self.scores.resize(chunks, [0.0; LANES]);
        for (code, entry) in book.entries.chunks_exact(book.width).enumerate() {
            for (j, value) in entry.iter().enumerate() {
                self.plain[code / LANES * book.width + j][code % LANES] = *value as f32;
            }
        }
    }

    /// The code of the entry whose error costs least in place of `weights`.
    pub fn nearest(&mut self, book: &Book, weights: &[f64], scale: f32) -> u32 {
        if book.width == 1 {
            let level = weights[0] / f64::from(scale);
            let above = book.entries.partition_point(|entry| *entry < level);
            let (below, last) = (above.saturating_sub(1), book.entries.len() - 1);
            let above = above.min(last);
            let nearer = level - book.entries[below] <= book.entries[above] - level;
            return if nearer { below as u32 } else { above as u32 };
        }
        let inverse = 1.0 / f64::from(scale);
        let mut levels = [0.0; Book::WIDEST];
        for (j, level) in levels[..book.width].iter_mut().enumerate() {
            let moved: f64 = (0..=j).map(|i| weights[i] * self.metric[i][j]).sum();
            *level = (moved * inverse) as f32;
        }
        least(&self.lengths, &self.entries, &levels[..book.width], &mut self.scores)
    }
}

multiversion! {
    /// Computes `entries[j] = Σ_i plain[i] · metric[i][j]` and half their squared lengths.
    fn weigh(
        width: usize,
        metric: &ErrorMetric,
        plain: &[[f32; LANES]],
        entries: &mut [[f32; LANES]],
        lengths: &mut [[f32; LANES]],
    ) => weigh_body;
}

#[inline(always)]
fn weigh_body(
    width: usize,
    metric: &ErrorMetric,
    plain: &[[f32; LANES]],
    entries: &mut [[f32; LANES]],
    lengths: &mut [[f32; LANES]],
) {
    for ((plain, entries), length) in
        plain.chunks_exact(width).zip(entries.chunks_exact_mut(width)).zip(lengths)
    {
        let mut squares = [0.0; LANES];
        for (j, entry) in entries.iter_mut().enumerate() {
            let mut moved = [0.0; LANES];
            for (plain, row) in plain.iter().zip(metric).take(j + 1) {
                let weight = row[j] as f32;
                moved.iter_mut().zip(plain).for_each(|(moved, plain)| *moved += plain * weight);
            }
            squares.iter_mut().zip(moved).for_each(|(square, moved)| *square += moved * moved);
            *entry = moved;
        }
        *length = squares.map(|square| 0.5 * square);
    }
}

multiversion! {
    /// The code at which `lengths − Σ_j levels[j] · entries[j]` is least, the first of several. `scores` is scratch.
    fn least(
        lengths: &[[f32; LANES]],
        entries: &[[f32; LANES]],
        levels: &[f32],
        scores: &mut [[f32; LANES]],
    ) -> u32 => least_body;
}

/// Has no branch among the lanes, so that the compiler turns it into vector code.
#[inline(always)]
fn least_body(
    lengths: &[[f32; LANES]],
    entries: &[[f32; LANES]],
    levels: &[f32],
    scores: &mut [[f32; LANES]],
) -> u32 {
    let mut lowest = [f32::INFINITY; LANES];
    for ((scores, length), entries) in scores.iter_mut().zip(lengths).zip(entries.chunks_exact(levels.len()))
    {
        let mut sums = *length;
        for (level, entries) in levels.iter().zip(entries) {
            sums.iter_mut().zip(entries).for_each(|(sum, entry)| *sum -= level * entry);
        }
        *scores = sums;
        lowest
            .iter_mut()
            .zip(sums)
            .for_each(|(lowest, sum)| *lowest = if sum < *lowest { sum } else { *lowest });
    }
    let mut lanes = LANES;
    while lanes > 1 {
        lanes /= 2;
        let (low, high) = lowest.split_at_mut(lanes);
        low.iter_mut().zip(high).for_each(|(low, high)| *low = if *high < *low { *high } else { *low });
    }
    let least = lowest[0];
    let holds = |scores: &[f32; LANES]| scores.iter().fold(false, |found, score| found | (*score == least));
    let chunk = scores.iter().position(holds).unwrap_or(0);
    let lane = scores[chunk].iter().position(|score| *score == least).unwrap_or(0);
    (chunk * LANES + lane) as u32
}
