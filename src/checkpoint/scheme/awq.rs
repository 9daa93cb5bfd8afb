//! AWQ's "gemm" packing (Lin et al. 2023, <https://arxiv.org/abs/2306.00978>). One linear `M` of shape
//! `[out, in]`, always 4 bits with zero points:
//!
//! ```text
//! M.qweight  i32 [in, out/8]      half-byte k of word c, low ones first, is the code of row 8c + ROWS[k]
//! M.qzeros   i32 [groups, out/8]  zero points, packed alike
//! M.scales   f16 [groups, out]    (bf16 and f32 are read too)
//! weight[o, i] = scales[g, o] · (code[i, o] − zero[g, o]),  g = i / group_size
//! ```
//!
//! Layout: AutoAWQ `modules/linear/gemm.py` (`WQLinear_GEMM.from_linear`).

use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bytes::word_bytes;
use super::config::{group_size, group_size_json, read_settings, whole_groups};
use super::tensors::TensorRole::{Codes, TransposedScales, Zeros};
use super::tensors::{StoredLayout, TensorSpec};
use super::traits::{LinearFormat, Packing, Scheme};
use crate::arch::hf::loose::Flag;
use crate::checkpoint::Format;
use crate::checkpoint::safetensors::Dtype;
use crate::error::{Error, Result};
use crate::packed::{LevelsKind, PackedLayout, words_per_row};

const PARTS: [&str; 3] = [".qweight", ".qzeros", ".scales"];

const BITS: u32 = 4;

/// The row, of the eight that share a word, whose code is in each half-byte.
const ROWS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The half-byte of each of the eight rows.
const HALF_BYTES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Words whose rows are unpacked together: a cache line of the file.
const LINE_WORDS: usize = 16;

/// Settings in config.json, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Awq {
    /// `None`: one group per row (−1 in the file).
    pub group_size: Option<usize>,
}

/// Absent keys have transformers' defaults (`AwqConfig`).
#[derive(Deserialize)]
struct AwqSettings {
    bits: Option<i64>,
    group_size: Option<i64>,
    zero_point: Option<Flag>,
    version: Option<String>,
    backend: Option<String>,
}

impl Awq {
    pub fn scheme(self) -> Scheme {
        Scheme { format: Format::Awq, name: "AWQ 4-bit".into(), parts: &PARTS, linears: Box::new(self) }
    }

    /// # Errors
    /// Missing or impossible values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let raw: AwqSettings = read_settings(path, json, "AWQ")?;
        let version = raw.version.map_or_else(|| "gemm".into(), |version| version.to_lowercase());
        let backend = raw.backend.map_or_else(|| "autoawq".into(), |backend| backend.to_lowercase());
        let what = match raw.bits.unwrap_or(i64::from(BITS)) {
            _ if backend != "autoawq" => format!("backend \"{backend}\""),
            _ if version != "gemm" => format!("version \"{version}\""),
            bits if bits != i64::from(BITS) => format!("{bits} bits"),
            _ if raw.zero_point == Some(Flag(false)) => "zero_point false".into(),
            _ => return Ok(Self { group_size: group_size(path, raw.group_size.unwrap_or(128))? }),
        };
        Err(Error::unsupported(
            format!("{}: AWQ with {what}", path.display()),
            "works: version \"gemm\" of backend \"autoawq\", 4 bits with zero points",
        ))
    }
}

impl LinearFormat for Awq {
    fn spec(&self, [out_features, in_features]: [usize; 2]) -> Result<StoredLayout, String> {
        let group_size = self.group_size.unwrap_or(in_features);
        let groups = whole_groups(in_features, group_size)?;
        if !out_features.is_multiple_of(ROWS.len()) {
            return Err(format!("{out_features} rows do not fill words of {}", ROWS.len()));
        }
        let ([qweight, qzeros, scales], columns) = (PARTS, out_features / ROWS.len());
        let tensors = vec![
            TensorSpec::new(qweight, Codes, Dtype::I32, &[in_features, columns]),
            TensorSpec::new(qzeros, Zeros, Dtype::I32, &[groups, columns]),
            TensorSpec::new(scales, TransposedScales, Dtype::F16, &[groups, out_features]),
        ];
        let layout = PackedLayout { bits: BITS, group_size, levels: LevelsKind::Zeros, ordered: false };
        Ok(StoredLayout { layout, tensors })
    }

    fn unpack(&self, stored: &[u8], [out_features, in_features]: [usize; 2], codes: &mut [u32]) {
        let (words, columns) = (words_per_row(in_features, BITS), out_features / ROWS.len());
        let stored = stored.as_chunks::<4>().0;
        codes.par_chunks_mut(LINE_WORDS * ROWS.len() * words).enumerate().for_each(|(line, codes)| {
            for w in 0..words {
                for (c, rows) in codes.chunks_exact_mut(ROWS.len() * words).enumerate() {
                    let column = line * LINE_WORDS + c;
                    let mut square = [0u32; 8];
                    for (word, input) in square.iter_mut().zip(8 * w..in_features) {
                        *word = u32::from_le_bytes(stored[input * columns + column]);
                    }
                    transpose_half_bytes(&mut square);
                    for (row, word) in ROWS.iter().zip(square) {
                        rows[row * words + w] = word;
                    }
                }
            }
        });
    }

    fn zero_place(&self, row: usize, group: usize, [out_features, _]: [usize; 2]) -> (usize, usize) {
        ((group * out_features + row) / ROWS.len(), HALF_BYTES[row % ROWS.len()])
    }
}

/// Half-byte `j` of word `i` ↔ half-byte `i` of word `j` (Hacker's Delight, 7–3).
fn transpose_half_bytes(words: &mut [u32; 8]) {
    for (distance, mask) in [(4, 0x0000_FFFF), (2, 0x00FF_00FF), (1, 0x0F0F_0F0F)] {
        for i in (0..8).filter(|i| i & distance == 0) {
            let swapped = (words[i] >> (4 * distance) ^ words[i + distance]) & mask;
            words[i + distance] ^= swapped;
            words[i] ^= swapped << (4 * distance);
        }
    }
}

impl Packing for Awq {
    fn settings(&self) -> Value {
        json!({
            "quant_method": "awq",
            "bits": BITS,
            "group_size": group_size_json(self.group_size),
            "zero_point": true,
            "version": "gemm",
            "modules_to_not_convert": null,
        })
    }

    fn pack(&self, codes: &[u32], [out_features, in_features]: [usize; 2]) -> Vec<u8> {
        let (words, columns) = (words_per_row(in_features, BITS), out_features / ROWS.len());
        let mut qweight = vec![0u32; in_features * columns];
        for (column, rows) in codes.chunks_exact(ROWS.len() * words).enumerate() {
            for w in 0..words {
                let mut square = ROWS.map(|row| rows[row * words + w]);
                transpose_half_bytes(&mut square);
                for (word, input) in square.iter().zip(8 * w..in_features) {
                    qweight[input * columns + column] = *word;
                }
            }
        }
        word_bytes(&qweight)
    }
}
