//! Registers of neighbouring weight rows, on each instruction set that the tile is compiled for.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A register of `WIDTH` lanes: of f32, or of pairs of bf16 as the arguments of [`multiply`](Vector::multiply).
///
/// # Safety
/// For every function, this machine must have the instructions, and the memory behind a pointer must be readable or
/// writable for as many elements as the function says.
pub(super) trait Vector: Copy {
    const WIDTH: usize;
    /// Tokens per tile: with two registers each, most of the machine's registers hold sums.
    const TOKENS: usize;

    unsafe fn zero() -> Self;

    /// `WIDTH` words.
    unsafe fn load(at: *const u32) -> Self;

    /// One word for all lanes.
    unsafe fn splat(at: *const u32) -> Self;

    /// `WIDTH` floats.
    unsafe fn store(self, at: *mut f32);

    unsafe fn add(self, other: Self) -> Self;

    /// `self + a · b`
    unsafe fn add_product(self, a: Self, b: Self) -> Self;

    /// `self + a · b`, where `a` and `b` are words.
    #[inline(always)]
    unsafe fn multiply(self, a: Self, b: Self) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { self.add_product(a, b) }
    }
}

/// Implements a register of x86-64. Its functions are always inlined: an intrinsic is a single instruction only inside
/// a function that is compiled for it.
macro_rules! x86_vector {
    ($name:ident($register:ty), $width:literal, $tokens:literal, $load:ident, $splat:ident, $store:ident,
     $zero:ident, $add:ident, $fma:ident $(, $multiply:expr)?) => {
        #[cfg(target_arch = "x86_64")]
        #[derive(Clone, Copy)]
        pub(super) struct $name($register);

        #[cfg(target_arch = "x86_64")]
        impl Vector for $name {
            const WIDTH: usize = $width;
            const TOKENS: usize = $tokens;

            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: by the trait's contract.
                Self(unsafe { $zero() })
            }

            #[inline(always)]
            unsafe fn load(at: *const u32) -> Self {
                // SAFETY: by the trait's contract.
                Self(unsafe { $load(at.cast()) })
            }

            #[inline(always)]
            unsafe fn splat(at: *const u32) -> Self {
                // SAFETY: by the trait's contract.
                Self(unsafe { $splat(at.cast::<f32>().read()) })
            }

            #[inline(always)]
            unsafe fn store(self, at: *mut f32) {
                // SAFETY: by the trait's contract.
                unsafe { $store(at, self.0) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: by the trait's contract.
                Self(unsafe { $add(self.0, other.0) })
            }

            #[inline(always)]
            unsafe fn add_product(self, a: Self, b: Self) -> Self {
                // SAFETY: by the trait's contract.
                Self(unsafe { $fma(a.0, b.0, self.0) })
            }

            $(
                #[inline(always)]
                unsafe fn multiply(self, a: Self, b: Self) -> Self {
                    Self($multiply(self.0, a.0, b.0))
                }
            )?
        }
    };
}

x86_vector!(
    Avx512(__m512),
    16,
    12,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_storeu_ps,
    _mm512_setzero_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps
);
x86_vector!(
    Avx512Bf16(__m512),
    16,
    12,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_storeu_ps,
    _mm512_setzero_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps,
    |sum, a: __m512, b: __m512| {
        // SAFETY: by the trait's contract.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            )
        }
    }
);
x86_vector!(
    Avx2(__m256),
    8,
    6,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_storeu_ps,
    _mm256_setzero_ps,
    _mm256_add_ps,
    _mm256_fmadd_ps
);

/// Four lanes, which every machine has (NEON on aarch64, SSE2 on x86-64).
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

impl Vector for Portable {
    const WIDTH: usize = 4;
    const TOKENS: usize = if cfg!(target_arch = "aarch64") { 12 } else { 6 };

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 4])
    }

    #[inline(always)]
    unsafe fn load(at: *const u32) -> Self {
        // SAFETY: by the trait's contract.
        Self(unsafe { at.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(at: *const u32) -> Self {
        // SAFETY: by the trait's contract.
        Self([unsafe { at.cast::<f32>().read() }; 4])
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { at.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for i in 0..4 {
            self.0[i] += other.0[i];
        }
        self
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for i in 0..4 {
            // Fused where that is one instruction, not a call.
            self.0[i] = if cfg!(target_arch = "aarch64") {
                a.0[i].mul_add(b.0[i], self.0[i])
            } else {
                a.0[i] * b.0[i] + self.0[i]
            };
        }
        self
    }
}
