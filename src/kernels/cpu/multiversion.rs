//! Functions compiled once for each instruction set and chosen at run time.

/// Compiles an `#[inline(always)]` body for the vector units of x86-64 beside the baseline, and calls the widest
/// one that this machine has. Other architectures get the baseline (on aarch64 that is NEON).
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? => $body:path;) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "a kernel takes plain tensors and numbers")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,fma,bmi2")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma,bmi2,popcnt")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                use std::arch::is_x86_feature_detected as has;
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
                    && has!("avx512vpopcntdq") && has!("avx2") && has!("fma") && has!("bmi2")
                {
                    // SAFETY: the line above saw every feature that `avx512` is compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if has!("avx2") && has!("fma") && has!("bmi2") && has!("popcnt") {
                    // SAFETY: the line above saw every feature that `avx2` is compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use multiversion;
