//! The inner loops on the matrix unit of Intel's servers, AMX. A tile is 16 tokens by 16 words, 16 words by 16 rows of a
//! weight, or their product; the layout of units and slices is the one that it reads.

use std::arch::asm;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::layout::{LANES, runs};
use super::operands::{GroupOffsets, GroupScales, TileSlice, prefetch};

/// Tokens, words and lanes of a tile.
pub(super) const TILE: usize = 16;
/// Tokens that are multiplied together: with all lanes of a unit, two by two tiles.
const TOKENS: usize = 2 * TILE;
/// Bytes from one row of `w` or `y` to the next.
const ROW: usize = 4 * LANES;

/// Sums of a block of tokens, at cache lines.
#[repr(C, align(64))]
struct BlockSums([[f32; LANES]; TOKENS]);

/// The operand of LDTILECFG: shapes of the eight tiles. Intel SDM, volume 1, 18.3.
#[repr(C, align(64))]
struct TileShapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileShapes {
    /// Tiles 0 to 5, of sums and of `x`, with some tokens; tiles 6 and 7, of `w`, whole.
    fn of(tokens: usize) -> Self {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(4 * TILE as u16);
        rows[..6].fill(tokens as u8);
        rows[6..8].fill(TILE as u8);
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

/// Whether the processor has the unit, and the system lets this process use it.
pub(super) fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    /// Bits of EDX of CPUID leaf 7: AMX-BF16 and AMX-TILE.
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    *USABLE.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        leaf.edx & FEATURES == FEATURES && is_permitted()
    })
}

/// Asks Linux for the tiles' registers. `Documentation/arch/x86/xstate.rst`.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_int = 18;
    // SAFETY: the call takes two numbers, and changes nothing but what the threads of this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Whether all runs of a slice are whole tiles.
pub(super) fn fits(slice: &TileSlice<'_>) -> bool {
    let words = slice.w.len();
    words.is_multiple_of(TILE)
        && slice.groups.as_ref().is_none_or(|groups| {
            runs(groups.start, words, groups.group_words).all(|(_, words)| words.is_multiple_of(TILE))
        })
}

/// `y = x · w`, or `y += x · w`
///
/// # Safety
/// The unit [is usable](is_usable), the slice [fits], and `tile::multiply` asserted that its parts agree.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(slice: &TileSlice<'_>, y: &mut [[f32; LANES]]) {
    let (tokens, words) = (y.len(), slice.w.len());
    let ahead = slice.next.len() / tokens.max(1);
    let (mut first, mut shaped_for) = (0, 0);
    while first < tokens {
        let count = match tokens - first {
            left @ ..TILE => left,
            TILE..TOKENS => TILE,
            _ => TOKENS,
        };
        if shaped_for != count.min(TILE) {
            shaped_for = count.min(TILE);
            let shapes = TileShapes::of(shaped_for);
            // SAFETY: the unit is usable, and no other code of this thread uses tiles before they are released below.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly)) };
        }
        prefetch(&slice.next[first * ahead..(first + count) * ahead]);
        let (x, y, both) = (&slice.x[first * words..], &mut y[first..first + count], count == TOKENS);
        match &slice.groups {
            // SAFETY: `x` has the words of the tokens of `y`, for which the tiles are shaped, and they fill whole tiles.
            None => unsafe {
                match slice.adds {
                    true => add_product(x.as_ptr(), words, slice.w, both, y.as_mut_ptr()),
                    false => product(x.as_ptr(), words, slice.w, both, y.as_mut_ptr()),
                }
            },
            Some(groups) => {
                if !slice.adds {
                    y.fill([0.0; LANES]);
                }
                let mut word = 0;
                for (run, (_, length)) in runs(groups.start, words, groups.group_words).enumerate() {
                    let mut sums = MaybeUninit::<BlockSums>::uninit();
                    let (x, w) = (&x[word..], &slice.w[word..word + length]);
                    // SAFETY: as above; `x` is as far into its first row as `w` into the slice. Rows of `sums` are written
                    // for all tokens of `y`, before they are read.
                    unsafe {
                        let sums = sums.as_mut_ptr().cast::<[f32; LANES]>();
                        product(x.as_ptr(), words, w, both, sums);
                        add_scaled(groups, run, std::slice::from_raw_parts(sums, count), first, y);
                    }
                    word += length;
                }
            }
        }
        first += count;
    }
    // SAFETY: as above. Without tiles in use the system saves less when it switches threads.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// The sums of two by two tiles, or of one by two, over some words: the tiles begin as some instructions set them.
macro_rules! sum_tiles {
    ($x:ident, $words:ident, $w:ident, $both:ident, $y:ident; $($both_begin:literal)*; $($one_begin:literal)*) => {{
        let (stride, steps) = (4 * $words, $w.len() / TILE);
        assert!(steps > 0);
        if $both {
            asm!(
                $($both_begin,)*
                "2:",
                "tileloadd tmm4, [{x0} + {stride}*1]",
                "tileloadd tmm6, [{w} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {row}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {stride}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 64",
                "add {x1}, 64",
                "add {w}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{y0} + {row}*1], tmm0",
                "tilestored [{y0} + {row}*1 + 64], tmm1",
                "tilestored [{y1} + {row}*1], tmm2",
                "tilestored [{y1} + {row}*1 + 64], tmm3",
                x0 = inout(reg) $x => _,
                x1 = inout(reg) $x.byte_add(TILE * stride) => _,
                w = inout(reg) $w.as_ptr() => _,
                steps = inout(reg) steps => _,
                y0 = in(reg) $y,
                y1 = in(reg) $y.add(TILE),
                stride = in(reg) stride,
                row = in(reg) ROW,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        } else {
            asm!(
                $($one_begin,)*
                "2:",
                "tileloadd tmm4, [{x0} + {stride}*1]",
                "tileloadd tmm6, [{w} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {row}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x0}, 64",
                "add {w}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{y0} + {row}*1], tmm0",
                "tilestored [{y0} + {row}*1 + 64], tmm1",
                x0 = inout(reg) $x => _,
                w = inout(reg) $w.as_ptr() => _,
                steps = inout(reg) steps => _,
                y0 = in(reg) $y,
                stride = in(reg) stride,
                row = in(reg) ROW,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }};
}

/// `y = x · w` for the tokens of a tile, or for 32 with `both`; `words` is the distance between rows of `x`.
///
/// # Safety
/// The tiles are configured. As many rows of `w.len()` words can be read from `x` on, as many rows written from `y` on, and
/// the words of `w` are whole tiles.
#[inline(always)]
unsafe fn product(x: *const u32, words: usize, w: &[[u32; LANES]], both: bool, y: *mut [f32; LANES]) {
    // SAFETY: each step reads 16 words of each row of `x` and 16 rows of `w`; the rest by this function's contract.
    unsafe {
        sum_tiles!(x, words, w, both, y;
            "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3";
            "tilezero tmm0" "tilezero tmm1"
        );
    }
}

/// `y += x · w`, as [`product`].
///
/// # Safety
/// As that of [`product`], and the rows from `y` on can be read.
#[inline(always)]
unsafe fn add_product(x: *const u32, words: usize, w: &[[u32; LANES]], both: bool, y: *mut [f32; LANES]) {
    // SAFETY: as above.
    unsafe {
        sum_tiles!(x, words, w, both, y;
            "tileloadd tmm0, [{y0} + {row}*1]"
            "tileloadd tmm1, [{y0} + {row}*1 + 64]"
            "tileloadd tmm2, [{y1} + {row}*1]"
            "tileloadd tmm3, [{y1} + {row}*1 + 64]";
            "tileloadd tmm0, [{y0} + {row}*1]"
            "tileloadd tmm1, [{y0} + {row}*1 + 64]"
        );
    }
}

/// `y += sums · scale + totals · offset` for the tokens from `first` on.
#[inline(always)]
fn add_scaled(
    groups: &GroupScales<'_>,
    run: usize,
    sums: &[[f32; LANES]],
    first: usize,
    y: &mut [[f32; LANES]],
) {
    let scale = &groups.scales[run];
    match groups.offsets {
        None => {
            for (y, sums) in y.iter_mut().zip(sums) {
                (0..LANES).for_each(|i| y[i] = sums[i].mul_add(scale[i], y[i]));
            }
        }
        Some(GroupOffsets { values, sums: totals, stride }) => {
            let (offset, totals) = (&values[run], &totals[run * stride + first..]);
            for ((y, sums), total) in y.iter_mut().zip(sums).zip(totals) {
                (0..LANES).for_each(|i| {
                    y[i] = total.mul_add(offset[i], sums[i].mul_add(scale[i], y[i]));
                });
            }
        }
    }
}
