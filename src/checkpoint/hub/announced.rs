//! What the hub announces of a file, and whether that is what came: its length, and for large files (the
//! hub's ETag is then their SHA-256, FIPS 180-4) every bit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use hf_hub::api::sync::Metadata;

use crate::error::{Error, Result};

pub struct Announced {
    pub etag: String,
    pub bytes: u64,
}

impl Announced {
    /// `None` where its ETag or commit cannot be a file's name, which they become.
    pub fn new(metadata: &Metadata) -> Option<Self> {
        let etag = metadata.etag().to_owned();
        let plain =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        (plain(&etag) && plain(metadata.commit_hash()))
            .then_some(Self { etag, bytes: metadata.size() as u64 })
    }

    /// What is wrong with the file that came.
    pub fn difference(&self, path: &Path) -> Result<Option<String>> {
        let mut file = File::open(path).map_err(Error::io(path, "reading"))?;
        let bytes = file.metadata().map_err(Error::io(path, "reading"))?.len();
        if bytes != self.bytes {
            return Ok(Some(format!("{bytes} bytes came where {} were announced", self.bytes)));
        }
        let is_sha256 = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        if is_sha256 {
            let got = sha256(&mut file).map_err(Error::io(path, "reading"))?;
            if !got.eq_ignore_ascii_case(&self.etag) {
                return Ok(Some(format!("its SHA-256 is {got} where {} was announced", self.etag)));
            }
        }
        Ok(None)
    }
}

const BLOCK: usize = 64;

fn sha256(reader: &mut impl Read) -> std::io::Result<String> {
    let constants = first_primes().map(|prime| fraction(prime.cbrt()));
    let [a, b, c, d, e, f, g, h, ..] = first_primes().map(|prime| fraction(prime.sqrt()));
    let mut state = [a, b, c, d, e, f, g, h];
    let mut buffer = vec![0; BLOCK << 14];
    let mut length = 0u64;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match reader.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        length += filled as u64;
        let (blocks, rest) = buffer[..filled].as_chunks::<BLOCK>();
        blocks.iter().for_each(|block| compress(&mut state, block, &constants));
        if filled < buffer.len() {
            // A one, zeros, and the length in bits fill the last block.
            let mut end = rest.to_vec();
            end.push(0x80);
            end.resize((end.len() + 8).next_multiple_of(BLOCK) - 8, 0);
            end.extend((length * 8).to_be_bytes());
            end.as_chunks().0.iter().for_each(|block| compress(&mut state, block, &constants));
            return Ok(state.iter().map(|word| format!("{word:08x}")).collect());
        }
    }
}

fn first_primes() -> [f64; BLOCK] {
    let mut candidates = 2u32..;
    std::array::from_fn(|_| {
        let prime = candidates.find(|n| (2..*n).all(|divisor| n % divisor != 0));
        prime.unwrap_or_default().into()
    })
}

/// The first 32 bits behind the point.
fn fraction(root: f64) -> u32 {
    (root.fract() * 2f64.powi(32)) as u32
}

fn compress(state: &mut [u32; 8], block: &[u8; BLOCK], constants: &[u32; BLOCK]) {
    let mut words = [0u32; BLOCK];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for t in 16..BLOCK {
        let (x, y) = (words[t - 15], words[t - 2]);
        let x = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
        let y = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
        words[t] = words[t - 16].wrapping_add(x).wrapping_add(words[t - 7]).wrapping_add(y);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (word, constant) in words.iter().zip(constants) {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let t1 = [s1, choice, *constant, *word].into_iter().fold(h, u32::wrapping_add);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(s0).wrapping_add(majority));
    }
    for (sum, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *sum = sum.wrapping_add(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard's examples, and as many a's as take more than one buffer.
    #[test]
    fn digests_are_the_standards() {
        let of = |text: &[u8]| sha256(&mut &text[..]).unwrap();
        assert_eq!(of(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(of(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(
            of(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        );
        assert_eq!(
            of(&[b'a'; 3_000_000]),
            "2a152c894398719c0570f83fac34ac03a0f6e8e474b995c2403aa5434f7b9dd4"
        );
    }
}
