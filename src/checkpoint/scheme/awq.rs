//! AWQ's "gemm" packing (Lin et al. 2023, <https://arxiv.org/abs/2306.00978>) ↔ `PackedWeight`. One linear
//! `M` of shape `[out, in]`, always 4 bits with zero points:
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

use super::super::Format;
use super::super::safetensors::Dtype;
use super::super::shards::{Shards, Tensor};
use super::{Layer, Packing, Scheme, StoredScales, expect, f16_bytes, ordering, transpose, word_bytes};
use crate::arch::hf::loose::{self, Flag};
use crate::device::host;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::{Levels, LevelsKind, PackedLayout, PackedWeight, words_per_row};

const PARTS: [&str; 3] = [".qweight", ".qzeros", ".scales"];

const BITS: u32 = 4;

/// The row, of the eight that share a word, whose code is in each half-byte.
const ROWS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Words whose rows are unpacked together: what one cache line of the file holds.
const LINE_WORDS: usize = 16;

/// What config.json says; also how directories are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Awq {
    /// `None`: one group per row (−1 in the file).
    pub group_size: Option<usize>,
}

/// Absent keys have transformers' defaults (`AwqConfig`).
#[derive(Deserialize)]
struct Settings {
    bits: Option<i64>,
    group_size: Option<i64>,
    zero_point: Option<Flag>,
    version: Option<String>,
    backend: Option<String>,
}

impl Awq {
    /// # Errors
    /// Missing or impossible values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let raw: Settings =
            loose::read(json).map_err(|e| Error::damaged(path, format!("AWQ quantization config: {e}")))?;
        let version = raw.version.map_or_else(|| "gemm".into(), |version| version.to_lowercase());
        let backend = raw.backend.map_or_else(|| "autoawq".into(), |backend| backend.to_lowercase());
        let what = match (&*version, &*backend) {
            ("gemm", "autoawq") if raw.bits.is_some_and(|bits| bits != i64::from(BITS)) => {
                format!("{} bits", raw.bits.unwrap_or_default())
            }
            ("gemm", "autoawq") if raw.zero_point == Some(Flag(false)) => "zero_point false".into(),
            ("gemm", "autoawq") => {
                let group_size = super::group_size(path, raw.group_size.unwrap_or(128))?;
                return Ok(Self { group_size });
            }
            (version, "autoawq") => format!("version \"{version}\""),
            (_, backend) => format!("backend \"{backend}\""),
        };
        Err(Error::unsupported(
            format!("{}: AWQ with {what}", path.display()),
            "works: version \"gemm\" of backend \"autoawq\", 4 bits with zero points",
        ))
    }

    /// In a row.
    fn groups(&self, [out_features, in_features]: [usize; 2]) -> Result<usize, String> {
        let size = self.group_size.unwrap_or(in_features).max(1);
        match (in_features.is_multiple_of(size), out_features.is_multiple_of(ROWS.len())) {
            (true, true) => Ok(in_features / size),
            (false, _) => Err(format!("groups of {size} do not fill rows of {in_features}")),
            (_, false) => Err(format!("{out_features} rows do not fill words of {}", ROWS.len())),
        }
    }
}

impl Scheme for Awq {
    fn format(&self) -> Format {
        Format::Awq
    }

    fn name(&self) -> String {
        "AWQ 4-bit".into()
    }

    fn parts(&self) -> &'static [&'static str] {
        &PARTS
    }

    fn open<'a>(
        &'a self,
        shards: &'a Shards,
        module: &str,
        shape: [usize; 2],
    ) -> Result<Box<dyn Layer + 'a>> {
        let [out_features, in_features] = shape;
        let part = |part: &str| shards.tensor(&format!("{module}{part}"));
        let (qweight, qzeros, scales) = (part(".qweight")?, part(".qzeros")?, part(".scales")?);
        let groups = self.groups(shape).map_err(|what| qweight.wrong(what))?;
        qweight.expect_shape(&[in_features, out_features / ROWS.len()])?;
        qzeros.expect_shape(&[groups, out_features / ROWS.len()])?;
        scales.expect_shape(&[groups, out_features])?;
        for tensor in [&qweight, &qzeros] {
            if tensor.dtype != Dtype::I32 {
                return Err(tensor.wrong(format!("expected I32, got {:?}", tensor.dtype)));
            }
        }
        let group_size = self.group_size.unwrap_or(in_features);
        let scales = StoredScales::new(scales, [out_features, groups], true)?;
        Ok(Box::new(AwqLayer { shape, group_size, qweight, qzeros, scales }))
    }
}

struct AwqLayer<'a> {
    shape: [usize; 2],
    group_size: usize,
    qweight: Tensor<'a>,
    qzeros: Tensor<'a>,
    scales: StoredScales<'a>,
}

impl Layer for AwqLayer<'_> {
    fn layout(&self) -> PackedLayout {
        PackedLayout { bits: BITS, group_size: self.group_size, levels: LevelsKind::Zeros, ordered: false }
    }

    fn scales(&self) -> &StoredScales<'_> {
        &self.scales
    }

    fn levels(&self) -> Result<Levels> {
        let (groups, words) = (self.qzeros.shape[0], self.qzeros.shape[1]);
        let mut zeros = vec![0u8; self.shape[0] * groups];
        for (i, word) in self.qzeros.bytes.as_chunks::<4>().0.iter().enumerate() {
            let (group, first) = (i / words, i % words * ROWS.len());
            for (k, row) in ROWS.iter().enumerate() {
                let zero = u32::from_le_bytes(*word) >> (BITS as usize * k) & 15;
                zeros[(first + row) * groups + group] = zero as u8;
            }
        }
        Ok(Levels::Zeros(zeros))
    }

    fn packed(&self) -> Result<PackedWeight> {
        let [out_features, in_features] = self.shape;
        let (words, columns) = (words_per_row(in_features, BITS), out_features / ROWS.len());
        let stored = self.qweight.bytes.as_chunks::<4>().0;
        let mut codes = vec![0u32; out_features * words];
        host::prefer_huge_pages(&mut codes);
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
        Ok(PackedWeight {
            out_features,
            in_features,
            bits: BITS,
            group_size: self.group_size,
            codes,
            scales: self.scales.values()?,
            levels: self.levels()?,
            perm: None,
        })
    }

    fn bytes(&self) -> usize {
        self.qweight.bytes.len() + self.qzeros.bytes.len() + self.scales.tensor().bytes.len()
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
    fn scale_dtype(&self) -> FloatType {
        FloatType::F16
    }

    fn settings(&self) -> Value {
        json!({
            "quant_method": "awq",
            "bits": BITS,
            "group_size": self.group_size.map_or(json!(-1), |size| json!(size)),
            "zero_point": true,
            "version": "gemm",
            "modules_to_not_convert": null,
        })
    }

    fn describe(&self, shape: [usize; 2]) -> Result<Vec<(String, Dtype, Vec<usize>)>, String> {
        let ([out_features, in_features], groups) = (shape, self.groups(shape)?);
        let parts = [
            (Dtype::I32, vec![in_features, out_features / ROWS.len()]),
            (Dtype::I32, vec![groups, out_features / ROWS.len()]),
            (Dtype::F16, vec![groups, out_features]),
        ];
        Ok(PARTS.iter().zip(parts).map(|(part, (dtype, shape))| (part.to_string(), dtype, shape)).collect())
    }

    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        expect(packed, BITS, self.group_size)?;
        let (out_features, in_features) = (packed.out_features, packed.in_features);
        let groups = self.groups([out_features, in_features])?;
        let zeros = match &packed.levels {
            Levels::Zeros(zeros) if packed.perm.is_none() || groups == 1 => zeros,
            _ => return Err("AWQ holds zero points, and groups of neighbouring features".into()),
        };
        let (words, columns) = (packed.words_per_row(), out_features / ROWS.len());
        let (codes, _) = ordering::undo(packed);
        let (mut qweight, mut qzeros) = (vec![0u32; in_features * columns], vec![0u32; groups * columns]);
        for (column, rows) in codes.chunks_exact(ROWS.len() * words).enumerate() {
            for w in 0..words {
                let mut square = ROWS.map(|row| rows[row * words + w]);
                transpose_half_bytes(&mut square);
                for (word, input) in square.iter().zip(8 * w..in_features) {
                    qweight[input * columns + column] = *word;
                }
            }
        }
        for (i, word) in qzeros.iter_mut().enumerate() {
            let (group, first) = (i / columns, i % columns * ROWS.len());
            for (k, row) in ROWS.iter().enumerate() {
                *word |= u32::from(zeros[(first + row) * groups + group]) << (BITS as usize * k);
            }
        }
        Ok(vec![
            word_bytes(&qweight),
            word_bytes(&qzeros),
            f16_bytes(&transpose(&packed.scales, out_features, |scale| scale))?,
        ])
    }
}
