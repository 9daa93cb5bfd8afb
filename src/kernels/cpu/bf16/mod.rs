//! `Y = X · Wᵀ` in AVX512-BF16, with the tokens in the vector lanes and the weights broadcast.
//!
//! The integers of a group (`code − zero`, exact in bf16) are multiplied first; the scale, perturbed or
//! not, multiplies their sum in f32. So rounding to bf16 touches the activations alone, the same way at
//! both signs of a perturbation, and a perturbed scale is never rounded.
//!
//! ```text
//! X panel   [in / 2][LANES tokens][2]   bf16: two neighbouring input features side by side
//! W block   [rows][in]                  bf16, row-major: two neighbours are one 32-bit broadcast
//! Y block   [rows][LANES tokens]        f32, transposed into [T, out] at the end
//! ```

mod panel;
mod unpack;

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::columns::Columns;
use super::{LevelsView, WeightView, noise, rows_per_task};
use crate::kernels::packed::words_per_row;
use crate::zo::perturbation::Noise;
use panel::Panel;
use unpack::unpack_row;

/// Tokens per panel: four registers of sixteen f32.
const LANES: usize = 64;
/// Weight rows per tile: with four registers each, 24 of the 32 accumulate.
const ROWS: usize = 6;
/// Weights in an unpacked block: 256 KiB.
const BLOCK: usize = 128 * 1024;
/// Input features multiplied at a time, so that a panel's part of them stays in the second level cache.
const DEPTH: usize = 2048;

/// Whether this machine has the instructions and the weight the shape: pairs must not straddle groups.
pub(super) fn is_possible(weight: &WeightView<'_>) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let even = weight.in_features.is_multiple_of(2) && weight.group_size.is_multiple_of(2);
    even && is_supported() && has!("avx512vpopcntdq")
}

pub(super) fn is_supported() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") && has!("avx512bf16")
}

/// # Shapes
/// `x`: `[T, in_features]`, `y`: `[T, out_features]`, both row-major f32. Only where [`is_possible`].
pub(super) fn packed_linear(
    x: &[f32],
    weight: &WeightView<'_>,
    perturbation: Option<(u32, Noise)>,
    y: &mut [f32],
) {
    let (n, k) = (weight.out_features, weight.in_features);
    let groups = k.div_ceil(weight.group_size);
    let sums = matches!(weight.levels, LevelsView::Minimum(_));
    let panels: Vec<Panel> =
        x.par_chunks(LANES * k).map(|x| Panel::new(x, k, weight.group_size, sums)).collect();
    let rows = rows_per_task(n, (BLOCK / k).min(256), ROWS);
    let y = Columns::new(y);
    (0..n.div_ceil(rows)).into_par_iter().for_each_init(
        || Block::new(rows, k, groups),
        |block, index| {
            let first = index * rows;
            let width = rows.min(n - first);
            block.fill(weight, perturbation, first, width);
            for (p, panel) in panels.iter().enumerate() {
                block.multiply(panel, k, weight.group_size);
                for t in 0..panel.tokens {
                    // SAFETY: row p·LANES + t < T and columns first .. first + width ≤ n of the T × n matrix
                    // `y`; no other task has this `index`, so no two tasks write the same element.
                    let out = unsafe { y.part((p * LANES + t) * n + first, width) };
                    out.iter_mut().zip(block.y[t..].iter().step_by(LANES)).for_each(|(out, y)| *out = *y);
                }
            }
        },
    );
}

/// Some rows of the weight, unpacked, and their product with one panel.
struct Block {
    /// `[rows][in / 2]` pairs
    pairs: Vec<u32>,
    /// `[rows][groups]`
    scales: Vec<f32>,
    /// `[rows][groups]`: what is added to every weight of a group; empty where the levels have none.
    minimum: Vec<f32>,
    /// `[rows][LANES]`
    y: Vec<f32>,
    k: Vec<i32>,
    groups: usize,
}

impl Block {
    fn new(rows: usize, k: usize, groups: usize) -> Self {
        Self {
            pairs: vec![0; rows * k / 2],
            scales: vec![0.0; rows * groups],
            minimum: Vec::new(),
            y: vec![0.0; rows * LANES],
            k: vec![0; rows * groups],
            groups,
        }
    }

    /// Rows from `width` on keep whatever they hold: their products are not read.
    fn fill(
        &mut self,
        weight: &WeightView<'_>,
        perturbation: Option<(u32, Noise)>,
        first: usize,
        width: usize,
    ) {
        let groups = self.groups;
        let range = first * groups..(first + width) * groups;
        let scales = &mut self.scales[..width * groups];
        scales.copy_from_slice(&weight.scales[range.clone()]);
        if let Some((parameter, noise)) = perturbation {
            let k = &mut self.k[..scales.len()];
            noise::fill(noise, parameter, range.start as u32, k);
            scales.iter_mut().zip(k).for_each(|(s, k)| *s = noise.apply(*s, *k));
        }
        if let LevelsView::Minimum(minimum) = weight.levels {
            self.minimum.resize(self.scales.len(), 0.0);
            let constant = |s: f32| s == 0.0;
            for ((out, m), s) in self.minimum.iter_mut().zip(&minimum[range]).zip(&self.scales) {
                *out = if constant(*s) { *m } else { s * m };
            }
        }
        let words = words_per_row(weight.in_features, weight.bits);
        for row in 0..width {
            let codes = &weight.codes[(first + row) * words..][..words];
            let out = &mut self.pairs[row * weight.in_features / 2..][..weight.in_features / 2];
            unpack_row(weight, codes, (first + row) * groups, out);
        }
    }

    fn multiply(&mut self, panel: &Panel, k: usize, group_size: usize) {
        self.y.fill(0.0);
        let stride = k / 2;
        let step = (DEPTH / group_size).max(1);
        for start in (0..self.groups).step_by(step) {
            let range = [start, (start + step).min(self.groups)];
            for row in (0..self.y.len() / LANES).step_by(ROWS) {
                let tile = Tile {
                    w: &self.pairs[row * stride..][..ROWS * stride],
                    x: &panel.pairs,
                    scales: &self.scales[row * self.groups..][..ROWS * self.groups],
                    minimum: self.minimum.get(row * self.groups..(row + ROWS) * self.groups),
                    sums: &panel.sums,
                    stride,
                    groups: self.groups,
                    group_pairs: group_size / 2,
                };
                let y = &mut self.y[row * LANES..][..ROWS * LANES];
                // SAFETY: `is_possible` saw every feature that `multiply_tile` is compiled for.
                unsafe { multiply_tile(&tile, range, y) };
            }
        }
    }
}

struct Tile<'a> {
    /// `[ROWS][stride]`
    w: &'a [u32],
    /// `[stride][LANES]`
    x: &'a [u32],
    /// `[ROWS][groups]`
    scales: &'a [f32],
    minimum: Option<&'a [f32]>,
    /// `[groups][LANES]`
    sums: &'a [f32],
    /// Pairs of input features.
    stride: usize,
    groups: usize,
    group_pairs: usize,
}

/// Adds the groups `first .. last` to `y`, `[ROWS][LANES]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn multiply_tile(tile: &Tile<'_>, [first, last]: [usize; 2], y: &mut [f32]) {
    let Tile { w, x, scales, minimum, sums, stride, groups, group_pairs } = *tile;
    assert!(w.len() == ROWS * stride && x.len() == stride * LANES && scales.len() == ROWS * groups);
    assert!(y.len() == ROWS * LANES && last <= groups && (groups - 1) * group_pairs < stride);
    assert!(minimum.is_none_or(|m| m.len() == ROWS * groups && sums.len() == groups * LANES));
    for group in first..last {
        let pairs = group * group_pairs..((group + 1) * group_pairs).min(stride);
        let mut acc = [[_mm512_setzero_ps(); LANES / 16]; ROWS];
        for pair in pairs {
            // SAFETY: pair < stride and row < ROWS, so by the first assertion each of the loads of 16
            // words at `pair · LANES + 16·j` and of one word at `row · stride + pair` is inside its slice.
            unsafe {
                let at = x.as_ptr().add(pair * LANES);
                let x = [0, 1, 2, 3].map(|j| as_bf16(_mm512_loadu_si512(at.add(16 * j).cast())));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let w = as_bf16(_mm512_set1_epi32(*w.get_unchecked(row * stride + pair) as i32));
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = _mm512_dpbf16_ps(*acc, w, x);
                    }
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            let scale = _mm512_set1_ps(scales[row * groups + group]);
            let minimum = minimum.map(|m| _mm512_set1_ps(m[row * groups + group]));
            for (j, acc) in acc.iter().enumerate() {
                // SAFETY: row < ROWS, j < LANES / 16 and group < groups: 16 floats from either offset are
                // inside `y` and, where there is a minimum, inside `sums`, by the assertions above.
                unsafe {
                    let out = y.as_mut_ptr().add(row * LANES + 16 * j);
                    let mut sum = _mm512_fmadd_ps(*acc, scale, _mm512_loadu_ps(out));
                    if let Some(minimum) = minimum {
                        let total = _mm512_loadu_ps(sums.as_ptr().add(group * LANES + 16 * j));
                        sum = _mm512_fmadd_ps(total, minimum, sum);
                    }
                    _mm512_storeu_ps(out, sum);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid values.
    unsafe { std::mem::transmute(bits) }
}
