//! Codes in a stream of bits: `bits` each, low bits of a u32 word first. A code may straddle two words.

/// Words of a row of `codes` codes.
pub fn words_per_row(codes: usize, bits: u32) -> usize {
    (codes * bits as usize).div_ceil(32)
}

/// Code number `index` of a bit stream of `bits`-wide codes, low bits first.
pub fn get_code(words: &[u32], index: usize, bits: u32) -> u32 {
    let bit = index * bits as usize;
    let (word, shift) = (bit / 32, (bit % 32) as u32);
    let mut value = words[word] >> shift;
    if shift + bits > 32 {
        value |= words[word + 1] << (32 - shift);
    }
    value & (u32::MAX >> (32 - bits))
}

/// Writes code number `index`; the bits there must still be zero.
pub fn put_code(words: &mut [u32], index: usize, bits: u32, code: u32) {
    let bit = index * bits as usize;
    let (word, shift) = (bit / 32, (bit % 32) as u32);
    words[word] |= code << shift;
    if shift + bits > 32 {
        words[word + 1] |= code >> (32 - shift);
    }
}

/// Writes codes, given as one byte each, from number `start` on; the bits there must still be zero.
pub fn put_codes(words: &mut [u32], start: usize, bits: u32, codes: &[u8]) {
    // A multiple of 32 codes begins with a word, whatever the width of a code.
    const CODES: usize = 32;
    let whole = if start.is_multiple_of(CODES) { codes.len() / CODES * CODES } else { 0 };
    let to = &mut words[start / CODES * bits as usize..];
    match bits {
        2 => pack_codes(&codes[..whole], 2, to),
        3 => pack_codes(&codes[..whole], 3, to),
        4 => pack_codes(&codes[..whole], 4, to),
        _ => pack_codes(&codes[..whole], bits, to),
    }
    for (i, code) in codes[whole..].iter().enumerate() {
        put_code(words, start + whole + i, bits, u32::from(*code));
    }
}

/// Packs a multiple of 32 codes, given as one byte each, into a stream of `bits`-wide ones.
#[inline(always)]
pub fn pack_codes(codes: &[u8], bits: u32, words: &mut [u32]) {
    for (codes, words) in codes.as_chunks::<32>().0.iter().zip(words.chunks_exact_mut(bits as usize)) {
        let mut stream = [0; 32];
        // Eight codes fill as many bytes as a code has bits.
        for (codes, bytes) in codes.as_chunks().0.iter().zip(stream.chunks_exact_mut(bits as usize)) {
            let eight = u64::from_le_bytes(*codes);
            let twos = eight & 0x00ff_00ff_00ff_00ff | (eight & 0xff00_ff00_ff00_ff00) >> (8 - bits);
            let fours = twos & 0x0000_ffff_0000_ffff | (twos & 0xffff_0000_ffff_0000) >> (16 - 2 * bits);
            let all = fours & 0x0000_0000_ffff_ffff | (fours & 0xffff_ffff_0000_0000) >> (32 - 4 * bits);
            bytes.copy_from_slice(&all.to_le_bytes()[..bits as usize]);
        }
        for (word, bytes) in words.iter_mut().zip(stream.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
}
