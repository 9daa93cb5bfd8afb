//! Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1,
//! 2, 3" (SC 2011), section 4.3. Each use of a seed has a [`Stream`] of its own.

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Weyl increments of the key: the golden ratio and √3 − 1.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The uses of the generator under one seed, which are numbered in the counter's fourth word. The other words have a
/// meaning in each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Counter: (scale index, parameter id, probe). See [`crate::zo::direction`].
    Gaussian = 0,
    /// Counter: (scale index / 128, parameter id, probe).
    Rademacher = 1,
    /// The order of the training rows. Counter: (row, epoch low word, epoch high word).
    Epoch = 2,
    /// The rows that are held out for evaluation. Counter: (row, 0, 0).
    Split = 3,
    /// The tokens of generated text. Counter: (position, 0, 0).
    Sampling = 4,
    /// The seed of a training step. Counter: (step low word, step high word, 0).
    StepSeed = 5,
    /// The rounding of the optimizer's state. Counter: (parameter / 4, weight, step).
    Optimizer = 6,
}

/// 128 random bits of a stream. The key is the seed, low word first.
pub fn random_bits(seed: u64, [c0, c1, c2]: [u32; 3], stream: Stream) -> [u32; 4] {
    philox4x32_10([c0, c1, c2, stream as u32], [seed as u32, (seed >> 32) as u32])
}

/// 128 random bits for one counter. The authors' known-answer file says:
///
/// | counter | key | result |
/// |---|---|---|
/// | all 0 | all 0 | `6627e8d5 e169c58d bc57ac4c 9b00dbd8` |
/// | all 1 bits | all 1 bits | `408f276d 41c83b0e a20bc7c6 6d5451fd` |
/// | `243f6a88 85a308d3 13198a2e 03707344` | `a4093822 299f31d0` | `d16cfe09 94fdcceb 5001e420 24126ea1` |
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let (high0, low0) = wide_product(MULTIPLIER[0], c0);
        let (high1, low1) = wide_product(MULTIPLIER[1], c2);
        (c0, c1, c2, c3) = (high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0);
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [c0, c1, c2, c3]
}

fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_authors_known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected, "counter {counter:08x?} key {key:08x?}");
        }
    }
}
