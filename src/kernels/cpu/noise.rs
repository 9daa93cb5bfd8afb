//! The integers of a direction for consecutive scales, from sixteen Philox counters side by side, which the
//! compiler can keep in vector registers. Equal to [`crate::zo::direction::integer_noise`].

use super::multiversion::multiversion;
use crate::rng::Stream;
use crate::zo::direction::{Direction, Distribution};

const LANES: usize = 16;

multiversion! {
    /// Writes k of scale index `first + i` to `k[i]`.
    pub(super) fn fill(direction: Direction, parameter: u32, first: u32, k: &mut [i32]) => fill_body;
}

#[inline(always)]
fn fill_body(direction: Direction, parameter: u32, first: u32, k: &mut [i32]) {
    match direction.distribution {
        Distribution::Gaussian => {
            for (chunk, k) in k.chunks_mut(LANES).enumerate() {
                let mut counters = [0u32; LANES];
                for (lane, c) in counters.iter_mut().enumerate() {
                    *c = first.wrapping_add((chunk * LANES + lane) as u32);
                }
                let bits = philox(counters, parameter, direction.probe, Stream::Gaussian, direction.seed);
                for (lane, k) in k.iter_mut().enumerate() {
                    let ones: u32 = bits.iter().map(|word| word[lane].count_ones()).sum();
                    *k = ones as i32 - 64;
                }
            }
        }
        Distribution::Rademacher => {
            // One counter serves 128 scales.
            let mut words = ([0u32; 4], None);
            for (i, k) in k.iter_mut().enumerate() {
                let index = first.wrapping_add(i as u32);
                if words.1 != Some(index >> 7) {
                    let bits = philox(
                        [index >> 7; LANES],
                        parameter,
                        direction.probe,
                        Stream::Rademacher,
                        direction.seed,
                    );
                    words = (bits.map(|word| word[0]), Some(index >> 7));
                }
                let word = words.0[(index as usize >> 5) & 3];
                *k = ((word >> (index & 31)) & 1) as i32 * 2 - 1;
            }
        }
    }
}

/// Philox4x32-10 on `LANES` counters that differ in their first word. A lane is the low half of 64 bits, so that
/// products need no moves between lanes; the high halves reach no result.
#[inline(always)]
fn philox(c0: [u32; LANES], c1: u32, c2: u32, stream: Stream, seed: u64) -> [[u32; LANES]; 4] {
    let c3 = stream as u32;
    let low = |x: u64| x & 0xffff_ffff;
    let mut counter = [c0.map(u64::from), [c1.into(); LANES], [c2.into(); LANES], [c3.into(); LANES]];
    let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        let [a, b, c, d] = &mut counter;
        for lane in 0..LANES {
            let p0 = 0xD251_1F53 * low(a[lane]);
            let p1 = 0xCD9E_8D57 * low(c[lane]);
            a[lane] = (p1 >> 32) ^ b[lane] ^ u64::from(k0);
            b[lane] = p1;
            c[lane] = (p0 >> 32) ^ d[lane] ^ u64::from(k1);
            d[lane] = p0;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    counter.map(|word| word.map(|x| x as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::direction::{ScaleMode, integer_noise};

    #[test]
    fn lanes_agree_with_the_scalar_definition_on_ragged_lengths() {
        for kind in [Distribution::Gaussian, Distribution::Rademacher] {
            let direction = Direction {
                distribution: kind,
                mode: ScaleMode::Relative,
                seed: 0x1234_5678_9abc_def0,
                probe: 3,
            };
            let mut k = [0; 77];
            fill(direction, 7, 1000, &mut k);
            for (i, k) in k.iter().enumerate() {
                assert_eq!(*k, integer_noise(kind, direction.seed, 7, 3, 1000 + i as u32));
            }
        }
    }
}
