//! `PackedWeight` → blocks: the other direction of `blocks`.

use half::f16;

use super::blocks::GgmlType;
use super::names::RowOrder;
use crate::packed::convert::{Form, exact};
use crate::packed::{Levels, PackedWeight};

/// Elements per block of every type that is written.
pub const BLOCK: usize = 32;

/// The bytes of a tensor, and their rounding.
pub struct Encoded {
    pub bytes: Vec<u8>,
    /// The largest rounding of a minimum of Q4_1, −d · zero, to f16, in units of its scale: less than 0.008, since d has 11
    /// bits and a zero point 4. Codes and scales are exact.
    pub minimum_rounding: f32,
}

/// The form of the integers that a type holds; `None` where it cannot be written.
pub fn form(kind: GgmlType) -> Option<Form> {
    let form = |bits, symmetric| Some(Form { bits, group_size: Some(BLOCK), symmetric, ordered: false });
    match kind {
        GgmlType::Q4_0 => form(4, true),
        GgmlType::Q4_1 => form(4, false),
        GgmlType::Q8_0 => form(8, true),
        _ => None,
    }
}

/// Encodes a weight in blocks, its rows in the file's order.
///
/// # Errors
/// A weight that the type cannot hold.
pub fn encode(kind: GgmlType, packed: PackedWeight, order: RowOrder) -> Result<Encoded, String> {
    let form = form(kind).ok_or_else(|| format!("{kind} cannot be written"))?;
    if !packed.in_features.is_multiple_of(BLOCK) {
        return Err(format!("rows of {} features do not fill blocks of {BLOCK}", packed.in_features));
    }
    let packed = exact(packed, form)?;
    let (groups, block_words) = (packed.groups(), BLOCK * packed.bits as usize / 32);
    let block_bytes = kind.unit().1;
    let mut bytes = vec![0; packed.out_features * groups * block_bytes];
    let mut minimum_rounding = 0f32;
    for row in 0..packed.out_features {
        let at = order.in_file(row) * groups * block_bytes;
        let words = &packed.codes[row * groups * block_words..];
        for group in 0..groups {
            let block = &mut bytes[at + group * block_bytes..][..block_bytes];
            let words = &words[group * block_words..][..block_words];
            let scale = packed.scales[row * groups + group];
            block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            let codes = match &packed.levels {
                Levels::Zeros(zeros) => {
                    let exact = -scale * f32::from(zeros[row * groups + group]);
                    let minimum = f16::from_f32(exact);
                    if !minimum.is_finite() {
                        return Err(format!("the minimum {exact:e} does not fit f16"));
                    }
                    if scale != 0.0 {
                        minimum_rounding = minimum_rounding.max(((minimum.to_f32() - exact) / scale).abs());
                    }
                    block[2..4].copy_from_slice(&minimum.to_le_bytes());
                    &mut block[4..]
                }
                _ => &mut block[2..],
            };
            match words {
                // Elements 0 to 15 in the low nibbles, 16 to 31 in the high ones.
                &[a, b, c, d] => {
                    let nibble = |word: u32, i: usize| (word >> (4 * i) & 15) as u8;
                    for i in 0..8 {
                        codes[i] = nibble(a, i) | nibble(c, i) << 4;
                        codes[i + 8] = nibble(b, i) | nibble(d, i) << 4;
                    }
                }
                // The code less 128 is the byte with its top bit flipped.
                words => {
                    let stored = words.iter().flat_map(|word| (word ^ 0x8080_8080).to_le_bytes());
                    codes.iter_mut().zip(stored).for_each(|(code, stored)| *code = stored);
                }
            }
        }
    }
    Ok(Encoded { bytes, minimum_rounding })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_blocks_are_read_back() {
        for (kind, bits, levels) in [
            (GgmlType::Q4_0, 4, Levels::Zero(8)),
            (GgmlType::Q4_1, 4, Levels::Zeros((0..8).map(|i| i * 2).collect())),
            (GgmlType::Q8_0, 8, Levels::Zero(128)),
        ] {
            let words = 64 * bits as usize / 32;
            let packed = PackedWeight {
                out_features: 4,
                in_features: 64,
                bits,
                group_size: 32,
                codes: (0..4 * words as u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect(),
                scales: (0..8).map(|i| 0.5 + 0.25 * i as f32).collect(),
                levels,
                perm: None,
            };
            let order = RowOrder::Interleaved { head_dim: 4 };
            let encoded = encode(kind, packed.clone(), order).unwrap();
            assert_eq!(encoded.minimum_rounding, 0.0);
            let stride = encoded.bytes.len() / 4;
            for row in 0..4 {
                let stored = &encoded.bytes[order.in_file(row) * stride..][..stride];
                assert_eq!(kind.expand(stored, 64), packed.row(row), "{kind}");
                let mut codes = vec![0; words];
                kind.repack_into(stored, &mut codes);
                assert_eq!(codes, packed.codes[row * words..][..words], "{kind}");
            }
        }
    }
}
