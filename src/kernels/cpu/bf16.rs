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

use std::arch::x86_64::*;

use half::bf16;
use rayon::prelude::*;

use super::{LevelsView, WeightView, noise, rows_per_task};
use crate::kernels::packed::{get_code, words_per_row};
use crate::zo::perturbation::Noise;

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
    let y = Columns(y.as_mut_ptr());
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

/// The output, of which each task writes its own columns.
struct Columns(*mut f32);

// SAFETY: tasks write disjoint columns, as argued at the only use.
unsafe impl Sync for Columns {}

impl Columns {
    /// # Safety
    /// The part lies inside the allocation, and nobody else holds any of it.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts, by the contract above")]
    unsafe fn part(&self, start: usize, length: usize) -> &mut [f32] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), length) }
    }
}

/// Up to `LANES` tokens, rounded to bf16; lanes without a token hold zeros.
struct Panel {
    tokens: usize,
    /// `[in / 2][LANES]` pairs
    pairs: Vec<u32>,
    /// `[groups][LANES]`: sum of each group's activations, where a minimum is added to every weight of it.
    sums: Vec<f32>,
}

impl Panel {
    fn new(x: &[f32], k: usize, group_size: usize, sums: bool) -> Self {
        /// Pairs per task: enough work to outweigh handing it over.
        const SHARE: usize = 256;
        let mut pairs = vec![0u32; k / 2 * LANES];
        pairs.par_chunks_mut(SHARE * LANES).enumerate().for_each(|(share, pairs)| {
            // SAFETY: `is_possible` saw every feature that `round_columns` is compiled for.
            unsafe { round_columns(x, k, share * SHARE, pairs) };
        });
        let mut totals = vec![0f32; if sums { k.div_ceil(group_size) * LANES } else { 0 }];
        if sums {
            // SAFETY: as above.
            unsafe { sum_groups(&pairs, group_size / 2, &mut totals) };
        }
        Self { tokens: x.len() / k, pairs, sums: totals }
    }
}

/// Rounds the pairs from `first` on of every token to bf16 and puts them side by side: `[pairs][LANES]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn round_columns(x: &[f32], k: usize, first: usize, out: &mut [u32]) {
    let count = out.len() / LANES;
    let whole = count / 16 * 16;
    for (block, tokens) in x.chunks(16 * k).enumerate() {
        for column in (0..whole).step_by(16) {
            let mut square = [_mm512_setzero_si512(); 16];
            for (row, x) in square.iter_mut().zip(tokens.chunks_exact(k)) {
                let x = &x[2 * (first + column)..][..32];
                // SAFETY: the slice above holds 32 floats.
                let (low, high) =
                    unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
                let pairs = _mm512_cvtne2ps_pbh(high, low);
                // SAFETY: both are 512 bits without invalid values.
                *row = unsafe { std::mem::transmute::<__m512bh, __m512i>(pairs) };
            }
            for (i, row) in transpose(square).into_iter().enumerate() {
                let out = &mut out[(column + i) * LANES + 16 * block..][..16];
                // SAFETY: the slice above holds sixteen words.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), row) };
            }
        }
        for (lane, x) in tokens.chunks_exact(k).enumerate() {
            for column in whole..count {
                let bits = |v: f32| u32::from(bf16::from_f32(v).to_bits());
                let at = 2 * (first + column);
                out[column * LANES + 16 * block + lane] = bits(x[at]) | bits(x[at + 1]) << 16;
            }
        }
    }
}

/// The sum of each group's rounded activations: the product with a row of ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn sum_groups(pairs: &[u32], group_pairs: usize, sums: &mut [f32]) {
    // Two ones in bf16.
    let ones = as_bf16(_mm512_set1_epi32(0x3f80_3f80));
    for (pairs, sums) in pairs.chunks(group_pairs * LANES).zip(sums.chunks_exact_mut(LANES)) {
        for (j, sums) in sums.chunks_exact_mut(16).enumerate() {
            let mut acc = _mm512_setzero_ps();
            for pair in pairs.chunks_exact(LANES) {
                let x = &pair[16 * j..][..16];
                // SAFETY: the slice above holds sixteen words.
                acc = _mm512_dpbf16_ps(acc, as_bf16(unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }), ones);
            }
            // SAFETY: a chunk of sixteen floats.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), acc) };
        }
    }
}

/// Sixteen registers of sixteen words, rows and columns exchanged.
#[target_feature(enable = "avx512f")]
fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = r;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut b = a;
    for g in (0..16).step_by(4) {
        b[g] = _mm512_unpacklo_epi64(a[g], a[g + 2]);
        b[g + 1] = _mm512_unpackhi_epi64(a[g], a[g + 2]);
        b[g + 2] = _mm512_unpacklo_epi64(a[g + 1], a[g + 3]);
        b[g + 3] = _mm512_unpackhi_epi64(a[g + 1], a[g + 3]);
    }
    // Quarter q of b[4·g + j] now holds column 4·q + j of rows 4·g .. 4·g + 4.
    let mut c = b;
    for j in 0..4 {
        let even = |x, y| _mm512_shuffle_i32x4::<0x88>(x, y);
        let odd = |x, y| _mm512_shuffle_i32x4::<0xdd>(x, y);
        let (low_even, low_odd) = (even(b[j], b[4 + j]), odd(b[j], b[4 + j]));
        let (high_even, high_odd) = (even(b[8 + j], b[12 + j]), odd(b[8 + j], b[12 + j]));
        c[j] = even(low_even, high_even);
        c[8 + j] = odd(low_even, high_even);
        c[4 + j] = even(low_odd, high_odd);
        c[12 + j] = odd(low_odd, high_odd);
    }
    c
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

/// One row of codes → what the scale multiplies, as bf16 pairs. Integers up to 255 are exact; the entries
/// of a codebook are rounded.
fn unpack_row(weight: &WeightView<'_>, codes: &[u32], group: usize, out: &mut [u32]) {
    let group_pairs = weight.group_size / 2;
    let bits = |value: f32| bf16::from_f32(value).to_bits();
    let mut table = [0u16; 256];
    let fill = |table: &mut [u16; 256], zero: f32| {
        (0..1 << weight.bits).for_each(|code| table[code] = bits(code as f32 - zero));
    };
    match weight.levels {
        LevelsView::Zero(zero) => fill(&mut table, zero),
        LevelsView::Minimum(_) => fill(&mut table, 0.0),
        LevelsView::Codebook(codebook) => {
            table.iter_mut().zip(codebook).for_each(|(entry, level)| *entry = bits(*level));
        }
        LevelsView::Zeros(zeros) => {
            for (g, out) in out.chunks_mut(group_pairs).enumerate() {
                fill(&mut table, f32::from(zeros[group + g]));
                lookup(codes, weight.bits, g * weight.group_size, &table, out);
            }
            return;
        }
    }
    lookup(codes, weight.bits, 0, &table, out);
}

/// Codes from number `first` on, through the table.
fn lookup(codes: &[u32], bits: u32, first: usize, table: &[u16; 256], out: &mut [u32]) {
    let vectors = out.len() / 16;
    let (head, tail) = out.split_at_mut(if bits == 4 && first.is_multiple_of(8) { vectors * 16 } else { 0 });
    // SAFETY: `is_possible` saw every feature that `lookup4` is compiled for.
    unsafe { lookup4(&codes[(first / 8).min(codes.len())..], table, head) };
    let first = first + 2 * head.len();
    for (i, out) in tail.iter_mut().enumerate() {
        let entry = |code: usize| u32::from(table[get_code(codes, code, bits) as usize & 255]);
        *out = entry(first + 2 * i) | entry(first + 2 * i + 1) << 16;
    }
}

/// 4-bit codes, 32 at a time: four words are spread over the lanes, two nibbles to each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn lookup4(words: &[u32], table: &[u16; 256], out: &mut [u32]) {
    let shifts = _mm512_setr_epi32(0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24);
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let (low, high) = (_mm512_set1_epi32(0x0f), _mm512_set1_epi32(0xf0));
    // SAFETY: 32 of the 256 entries are 64 bytes.
    let table = unsafe { _mm512_loadu_si512(table.as_ptr().cast()) };
    for (words, out) in words.chunks_exact(4).zip(out.chunks_exact_mut(16)) {
        // SAFETY: four words are 16 bytes.
        let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
        let words = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(words));
        let bytes = _mm512_srlv_epi32(words, shifts);
        // The low nibble indexes for the low half of a lane, the high nibble for the high half.
        let high_index = _mm512_slli_epi32::<12>(_mm512_and_si512(bytes, high));
        let index = _mm512_or_si512(_mm512_and_si512(bytes, low), high_index);
        let pairs = _mm512_permutexvar_epi16(index, table);
        // SAFETY: sixteen words are 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs) };
    }
}
