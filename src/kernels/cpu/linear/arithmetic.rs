//! Instruction sets of a product.

#[cfg(target_arch = "x86_64")]
use super::amx;

/// An instruction set that this machine was seen to have: the constructors below are the only ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels::cpu) struct Arithmetic(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instructions {
    /// AMX-BF16, and AVX512-BF16 for what fills no tile.
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Arithmetic {
    /// The widest instructions for f32.
    pub fn f32() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") {
                return Self(Instructions::Avx512);
            }
            if has!("avx2") && has!("fma") {
                return Self(Instructions::Avx2);
            }
        }
        Self(Instructions::Portable)
    }

    /// Products of activations and levels in bf16, sums in f32; `None` where the machine has no such instructions.
    pub fn bf16() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bf16") {
                let is_amx = amx::is_usable();
                return Some(Self(if is_amx { Instructions::Amx } else { Instructions::Avx512Bf16 }));
            }
        }
        None
    }

    /// Every instruction set of this machine.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::f32(), Self(Instructions::Portable)];
        all.extend(Self::bf16());
        #[cfg(target_arch = "x86_64")]
        if Self::bf16().is_some_and(|widest| widest.0 == Instructions::Amx) {
            all.push(Self(Instructions::Avx512Bf16));
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            all.push(Self(Instructions::Avx2));
        }
        all
    }

    pub(super) fn instructions(self) -> Instructions {
        self.0
    }

    /// The words of a contraction are padded to a multiple of it, so that they fill whole tiles.
    pub(super) fn word_multiple(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Amx => amx::TILE,
            _ => 1,
        }
    }

    /// Input features per word: one f32 or two neighbouring bf16.
    pub(super) fn features(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Amx | Instructions::Avx512Bf16 => 2,
            _ => 1,
        }
    }
}
