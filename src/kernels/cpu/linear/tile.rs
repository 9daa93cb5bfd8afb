//! The inner loops: a few tokens times the rows of a unit, a slice of the input features at a time.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::arithmetic::{Arithmetic, Instructions};
use super::layout::{LANES, runs};
use super::operands::{GroupOffsets, GroupScales, TileSlice, prefetch};
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512, Avx512Bf16};
use super::vector::{Portable, Vector};

/// `y = x · w`, or `y += x · w`, one row of `y` for each token.
pub(super) fn multiply(arithmetic: Arithmetic, slice: &TileSlice<'_>, y: &mut [[f32; LANES]]) {
    let TileSlice { x, w, groups, adds: _, next: _ } = slice;
    assert!(x.len() == w.len() * y.len());
    if let Some(GroupScales { start, group_words, scales, offsets }) = groups {
        let runs = runs(*start, w.len(), *group_words).count();
        assert!(scales.len() >= runs);
        assert!(offsets.is_none_or(|GroupOffsets { values, sums, stride }| {
            values.len() >= runs && stride >= y.len() && sums.len() >= (runs.max(1) - 1) * stride + y.len()
        }));
    }
    match arithmetic.instructions() {
        // SAFETY: `Arithmetic` holds this only where the unit is usable; the assertions are above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Amx if amx::fits(slice) => unsafe { amx::multiply(slice, y) },
        // SAFETY: `Arithmetic` holds these only where the instructions were detected, AMX only beside AVX512-BF16.
        #[cfg(target_arch = "x86_64")]
        Instructions::Amx | Instructions::Avx512Bf16 => unsafe { avx512_bf16(slice, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { avx512(slice, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { avx2(slice, y) },
        Instructions::Portable => multiply_body::<Portable>(slice, y),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn avx512_bf16(slice: &TileSlice<'_>, y: &mut [[f32; LANES]]) {
    multiply_body::<Avx512Bf16>(slice, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(slice: &TileSlice<'_>, y: &mut [[f32; LANES]]) {
    multiply_body::<Avx512>(slice, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(slice: &TileSlice<'_>, y: &mut [[f32; LANES]]) {
    multiply_body::<Avx2>(slice, y);
}

#[inline(always)]
fn multiply_body<V: Vector>(slice: &TileSlice<'_>, y: &mut [[f32; LANES]]) {
    let mut first = 0;
    while first < y.len() {
        // SAFETY: `multiply` asserted that the slices agree, and each arm takes at most the tokens that are left.
        first += unsafe {
            match y.len() - first {
                12.. if V::TOKENS == 12 => tile::<V, 12>(slice, y, first),
                6.. => tile::<V, 6>(slice, y, first),
                3.. => tile::<V, 3>(slice, y, first),
                2 => tile::<V, 2>(slice, y, first),
                _ => tile::<V, 1>(slice, y, first),
            }
        };
    }
}

/// Multiplies `TOKENS` tokens from `first` on; returns their number.
///
/// # Safety
/// The slices agree as `multiply` asserts, and `first + TOKENS ≤ y.len()`.
#[inline(always)]
unsafe fn tile<V: Vector, const TOKENS: usize>(
    slice: &TileSlice<'_>,
    y: &mut [[f32; LANES]],
    first: usize,
) -> usize {
    let stride = slice.w.len();
    let ahead = slice.next.len() / y.len();
    prefetch(&slice.next[first * ahead..(first + TOKENS) * ahead]);
    for lane in (0..LANES).step_by(2 * V::WIDTH) {
        // SAFETY: `TOKENS` rows from `first` on and two registers from `lane` on are inside `x`, `w` and `y`,
        // whose lengths agree; the runs add up to `stride`.
        unsafe {
            let mut x = slice.x.as_ptr().add(first * stride);
            let mut w = slice.w.as_ptr().cast::<u32>().add(lane);
            let y = y.as_mut_ptr().add(first).cast::<f32>().add(lane);
            let Some(groups) = &slice.groups else {
                let sums = sums::<V, TOKENS>(x, stride, w, stride);
                for (t, sums) in sums.into_iter().enumerate() {
                    for (r, sum) in sums.into_iter().enumerate() {
                        let y = y.add(t * LANES + r * V::WIDTH);
                        sums_before::<V>(y, slice.adds).add(sum).store(y);
                    }
                }
                continue;
            };
            for (run, (_, words)) in runs(groups.start, stride, groups.group_words).enumerate() {
                let sums = sums::<V, TOKENS>(x, stride, w, words);
                let adds = slice.adds || run > 0;
                add_scaled::<V, TOKENS>(groups, run, sums, first, lane, (y, adds));
                x = x.add(words);
                w = w.add(words * LANES);
            }
        }
    }
    TOKENS
}

/// `x · w` over some words.
///
/// # Safety
/// `words` words can be read from `x` in each of `TOKENS` rows `stride` apart, and two registers at each of
/// `words` places from `w` on, `LANES` apart.
#[inline(always)]
unsafe fn sums<V: Vector, const TOKENS: usize>(
    x: *const u32,
    stride: usize,
    w: *const u32,
    words: usize,
) -> [[V; 2]; TOKENS] {
    // SAFETY: no memory is touched.
    let mut sums = [[unsafe { V::zero() }; 2]; TOKENS];
    for word in 0..words {
        // SAFETY: word < words and t < TOKENS, so by this function's contract.
        unsafe {
            let w = w.add(word * LANES);
            let w = [V::load(w), V::load(w.add(V::WIDTH))];
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(x.add(t * stride + word));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = sum.multiply(x, w);
                }
            }
        }
    }
    sums
}

/// The sums that a product is added to: those in `y`, or zeros.
///
/// # Safety
/// A register can be read from `y`.
#[inline(always)]
unsafe fn sums_before<V: Vector>(y: *const f32, adds: bool) -> V {
    // SAFETY: by this function's contract.
    unsafe { if adds { V::load(y.cast()) } else { V::zero() } }
}

/// `y = sums · scale + totals · offset`, or adds that to `y`.
///
/// # Safety
/// Two registers can be read and written at each of `TOKENS` places from `y` on, `LANES` apart; they are
/// lanes `lane` and on of tokens `first` and on; the groups are as [`multiply`] asserts and have this run.
#[inline(always)]
unsafe fn add_scaled<V: Vector, const TOKENS: usize>(
    groups: &GroupScales<'_>,
    run: usize,
    sums: [[V; 2]; TOKENS],
    first: usize,
    lane: usize,
    (y, adds): (*mut f32, bool),
) {
    // SAFETY: two registers from `lane` on are inside a row's LANES, the rest by this function's contract.
    unsafe {
        let at = groups.scales.as_ptr().add(run).cast::<u32>().add(lane);
        let scale = [V::load(at), V::load(at.add(V::WIDTH))];
        if let Some(GroupOffsets { values, sums: totals, stride }) = groups.offsets {
            let at = values.as_ptr().add(run).cast::<u32>().add(lane);
            let offset = [V::load(at), V::load(at.add(V::WIDTH))];
            let totals = totals.as_ptr().add(run * stride + first).cast::<u32>();
            for (t, sums) in sums.into_iter().enumerate() {
                let total = V::splat(totals.add(t));
                for (r, sum) in sums.into_iter().enumerate() {
                    let y = y.add(t * LANES + r * V::WIDTH);
                    sums_before::<V>(y, adds)
                        .add_product(sum, scale[r])
                        .add_product(total, offset[r])
                        .store(y);
                }
            }
        } else {
            for (t, sums) in sums.into_iter().enumerate() {
                for (r, sum) in sums.into_iter().enumerate() {
                    let y = y.add(t * LANES + r * V::WIDTH);
                    sums_before::<V>(y, adds).add_product(sum, scale[r]).store(y);
                }
            }
        }
    }
}
