//! AQLM (Egiazarian et al. 2024, <https://arxiv.org/abs/2401.06118>): vectors of a codebook, or sums of
//! several, with one scale per output row. One linear `M` of shape `[out, in]`:
//!
//! ```text
//! M.codes      i8 or i16 [out, in/ig, books]   modulo 2^nbits
//! M.codebooks  f16 [books, 2^nbits, 1, ig]
//! M.scales     f16 [out, 1, 1, 1]
//! weight[o, v·ig + j] = scales[o] · Σ_b codebooks[b, codes[o, v, b], 0, j]
//! ```
//!
//! Layout: AQLM `inference.py` (`QuantizedLinear`). Its out_group_size (vectors across rows) is always 1 in
//! published models, and has to be here.

use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::read_settings;
use super::tensors::TensorRole::{Codebook, Codes, Scales};
use super::tensors::{StoredLayout, TensorSpec};
use super::traits::{LinearFormat, Packing, Scheme};
use crate::checkpoint::Format;
use crate::checkpoint::safetensors::Dtype;
use crate::error::{Error, Result};
use crate::packed::{LevelsKind, PackedLayout, get_code, put_code, words_per_row};

pub const PARTS: [&str; 3] = [".codes", ".codebooks", ".scales"];

/// Settings in config.json, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aqlm {
    pub nbits_per_codebook: u32,
    pub num_codebooks: usize,
    pub in_group_size: usize,
    pub out_group_size: usize,
}

/// Absent keys have transformers' defaults (`AqlmConfig`).
#[derive(Deserialize)]
struct AqlmSettings {
    nbits_per_codebook: Option<u32>,
    num_codebooks: Option<usize>,
    in_group_size: Option<usize>,
    out_group_size: Option<usize>,
}

impl Aqlm {
    pub fn scheme(self) -> Scheme {
        let Self { num_codebooks, nbits_per_codebook: bits, in_group_size, .. } = self;
        let name = format!("AQLM {num_codebooks}x{bits} / {in_group_size}");
        Scheme { format: Format::Aqlm, name, parts: &PARTS, linears: Box::new(self) }
    }

    /// # Errors
    /// Missing or impossible values; vectors across rows.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let raw: AqlmSettings = read_settings(path, json, "AQLM")?;
        let scheme = Self {
            nbits_per_codebook: raw.nbits_per_codebook.unwrap_or(16),
            num_codebooks: raw.num_codebooks.unwrap_or(1),
            in_group_size: raw.in_group_size.unwrap_or(8),
            out_group_size: raw.out_group_size.unwrap_or(1),
        };
        let Self { nbits_per_codebook: bits, num_codebooks, in_group_size, out_group_size } = scheme;
        let what = format!(
            "AQLM with {num_codebooks} codebooks of {bits} bits for {out_group_size} × {in_group_size} weights"
        );
        let possible = (1..=16).contains(&bits) && (1..=8).contains(&num_codebooks);
        if !possible || !(1..=64).contains(&in_group_size) {
            return Err(Error::damaged(path, what));
        }
        if out_group_size != 1 {
            return Err(Error::unsupported(
                format!("{}: {what}", path.display()),
                "works: out_group_size 1, as in all published models",
            ));
        }
        Ok(scheme)
    }

    /// Codes in a row.
    fn codes_per_row(&self, in_features: usize) -> usize {
        in_features / self.in_group_size * self.num_codebooks
    }

    fn code_bytes(&self) -> usize {
        if self.nbits_per_codebook <= 8 { 1 } else { 2 }
    }
}

impl LinearFormat for Aqlm {
    fn spec(&self, shape: [usize; 2]) -> Result<StoredLayout, String> {
        let Self { nbits_per_codebook: bits, num_codebooks: books, in_group_size: width, .. } = *self;
        let [out_features, in_features] = shape;
        if !in_features.is_multiple_of(width) {
            return Err(format!("vectors of {width} do not fill rows of {in_features}"));
        }
        let dtype = if self.code_bytes() == 1 { Dtype::I8 } else { Dtype::I16 };
        let [codes, codebooks, scales] = PARTS;
        let tensors = vec![
            TensorSpec::new(codes, Codes, dtype, &[out_features, in_features / width, books]),
            TensorSpec::new(codebooks, Codebook, Dtype::F16, &[books, 1 << bits, 1, width]),
            TensorSpec::new(scales, Scales, Dtype::F16, &[out_features, 1, 1, 1]),
        ];
        let levels = LevelsKind::Codebook { width, num_codebooks: books };
        let layout = PackedLayout { bits, group_size: in_features, levels, ordered: false };
        Ok(StoredLayout { layout, tensors })
    }

    fn unpack(&self, stored: &[u8], [_, in_features]: [usize; 2], codes: &mut [u32]) {
        let (bits, per_row, size) =
            (self.nbits_per_codebook, self.codes_per_row(in_features), self.code_bytes());
        let rows = codes.par_chunks_mut(words_per_row(per_row, bits));
        rows.zip(stored.par_chunks(per_row * size)).for_each(|(row, stored)| {
            for (place, code) in stored.chunks_exact(size).enumerate() {
                let code = u32::from(code[0]) | code.get(1).map_or(0, |high| u32::from(*high) << 8);
                put_code(row, place, bits, code & (u32::MAX >> (32 - bits)));
            }
        });
    }
}

impl Packing for Aqlm {
    fn settings(&self) -> Value {
        json!({
            "quant_method": "aqlm",
            "nbits_per_codebook": self.nbits_per_codebook,
            "num_codebooks": self.num_codebooks,
            "in_group_size": self.in_group_size,
            "out_group_size": self.out_group_size,
            "linear_weights_not_to_quantize": ["lm_head.weight"],
        })
    }

    fn pack(&self, codes: &[u32], [_, in_features]: [usize; 2]) -> Vec<u8> {
        let (bits, per_row) = (self.nbits_per_codebook, self.codes_per_row(in_features));
        let rows = codes.chunks_exact(words_per_row(per_row, bits));
        let codes = rows.flat_map(|row| (0..per_row).map(move |i| get_code(row, i, bits)));
        codes.flat_map(|code| code.to_le_bytes().into_iter().take(self.code_bytes())).collect()
    }
}
