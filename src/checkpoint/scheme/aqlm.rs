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

use super::super::Format;
use super::super::safetensors::Dtype;
use super::super::shards::{Shards, Tensor};
use super::{Layer, Packing, Scheme, StoredScales, expect, f16_bytes};
use crate::arch::hf::loose;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::{Codebook, Levels, LevelsKind, PackedLayout, PackedWeight, put_code, words_per_row};

pub const PARTS: [&str; 3] = [".codes", ".codebooks", ".scales"];

/// What config.json says; also how directories are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aqlm {
    pub nbits_per_codebook: u32,
    pub num_codebooks: usize,
    pub in_group_size: usize,
    pub out_group_size: usize,
}

/// Absent keys have transformers' defaults (`AqlmConfig`).
#[derive(Deserialize)]
struct Settings {
    nbits_per_codebook: Option<u32>,
    num_codebooks: Option<usize>,
    in_group_size: Option<usize>,
    out_group_size: Option<usize>,
}

impl Aqlm {
    /// # Errors
    /// Missing or impossible values; vectors across rows.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let scheme: Settings =
            loose::read(json).map_err(|e| Error::damaged(path, format!("AQLM quantization config: {e}")))?;
        let scheme = Self {
            nbits_per_codebook: scheme.nbits_per_codebook.unwrap_or(16),
            num_codebooks: scheme.num_codebooks.unwrap_or(1),
            in_group_size: scheme.in_group_size.unwrap_or(8),
            out_group_size: scheme.out_group_size.unwrap_or(1),
        };
        let Self { nbits_per_codebook: bits, num_codebooks, in_group_size, out_group_size } = scheme;
        let what = format!(
            "AQLM with {num_codebooks} codebooks of {bits} bits for {out_group_size} × {in_group_size} weights"
        );
        if !(1..=16).contains(&bits)
            || !(1..=8).contains(&num_codebooks)
            || !(1..=64).contains(&in_group_size)
        {
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

    fn vectors(&self, in_features: usize) -> Result<usize, String> {
        match in_features.is_multiple_of(self.in_group_size) {
            true => Ok(in_features / self.in_group_size),
            false => Err(format!("vectors of {} do not fill rows of {in_features}", self.in_group_size)),
        }
    }

    fn dtype(&self) -> Dtype {
        if self.nbits_per_codebook <= 8 { Dtype::I8 } else { Dtype::I16 }
    }
}

impl Scheme for Aqlm {
    fn format(&self) -> Format {
        Format::Aqlm
    }

    fn name(&self) -> String {
        format!("AQLM {}x{} / {}", self.num_codebooks, self.nbits_per_codebook, self.in_group_size)
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
        let (codes, codebooks, scales) = (part(".codes")?, part(".codebooks")?, part(".scales")?);
        let vectors = self.vectors(in_features).map_err(|what| codes.wrong(what))?;
        codes.expect_shape(&[out_features, vectors, self.num_codebooks])?;
        if codes.dtype != self.dtype() {
            return Err(codes.wrong(format!("expected {:?}, got {:?}", self.dtype(), codes.dtype)));
        }
        codebooks.expect_shape(&[self.num_codebooks, 1 << self.nbits_per_codebook, 1, self.in_group_size])?;
        scales.expect_shape(&[out_features, 1, 1, 1])?;
        codebooks.float_type()?;
        let scales = StoredScales::new(scales, [out_features, 1], false)?;
        Ok(Box::new(AqlmLayer { scheme: *self, shape, codes, codebooks, scales }))
    }
}

struct AqlmLayer<'a> {
    scheme: Aqlm,
    shape: [usize; 2],
    codes: Tensor<'a>,
    codebooks: Tensor<'a>,
    scales: StoredScales<'a>,
}

impl Layer for AqlmLayer<'_> {
    fn layout(&self) -> PackedLayout {
        let levels = LevelsKind::Codebook {
            width: self.scheme.in_group_size,
            num_codebooks: self.scheme.num_codebooks,
        };
        let bits = self.scheme.nbits_per_codebook;
        PackedLayout { bits, group_size: self.shape[1], levels, ordered: false }
    }

    fn scales(&self) -> &StoredScales<'_> {
        &self.scales
    }

    fn levels(&self) -> Result<Levels> {
        super::codebook(&self.codebooks, self.scheme.in_group_size, self.scheme.num_codebooks)
    }

    fn packed(&self) -> Result<PackedWeight> {
        let ([out_features, in_features], bits) = (self.shape, self.scheme.nbits_per_codebook);
        let places = in_features / self.scheme.in_group_size * self.scheme.num_codebooks;
        let words = words_per_row(places, bits);
        let size = self.codes.bytes.len() / (out_features * places).max(1);
        let mut codes = vec![0u32; out_features * words];
        codes.par_chunks_mut(words).zip(self.codes.bytes.par_chunks(places * size)).for_each(
            |(row, stored)| {
                for (place, code) in stored.chunks_exact(size).enumerate() {
                    let code = u32::from(code[0]) | code.get(1).map_or(0, |high| u32::from(*high) << 8);
                    put_code(row, place, bits, code & (u32::MAX >> (32 - bits)));
                }
            },
        );
        Ok(PackedWeight {
            out_features,
            in_features,
            bits,
            group_size: in_features,
            codes,
            scales: self.scales.values()?,
            levels: self.levels()?,
            perm: None,
        })
    }

    fn bytes(&self) -> usize {
        self.codes.bytes.len() + self.codebooks.bytes.len() + self.scales.tensor().bytes.len()
    }
}

impl Packing for Aqlm {
    fn scale_dtype(&self) -> FloatType {
        FloatType::F16
    }

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

    fn describe(
        &self,
        [out_features, in_features]: [usize; 2],
    ) -> Result<Vec<(String, Dtype, Vec<usize>)>, String> {
        let parts = [
            (self.dtype(), vec![out_features, self.vectors(in_features)?, self.num_codebooks]),
            (Dtype::F16, vec![self.num_codebooks, 1 << self.nbits_per_codebook, 1, self.in_group_size]),
            (Dtype::F16, vec![out_features, 1, 1, 1]),
        ];
        Ok(PARTS.iter().zip(parts).map(|(part, (dtype, shape))| (part.to_string(), dtype, shape)).collect())
    }

    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        expect(packed, self.nbits_per_codebook, None)?;
        match &packed.levels {
            Levels::Codebook(Codebook { width, num_codebooks, entries })
                if (*width, *num_codebooks) == (self.in_group_size, self.num_codebooks)
                    && packed.perm.is_none() =>
            {
                let size = if self.dtype() == Dtype::I8 { 1 } else { 2 };
                let places = packed.codes_per_row();
                let code =
                    |i: usize| packed.code(i / places, i % places).to_le_bytes().into_iter().take(size);
                let codes = (0..packed.out_features * places).flat_map(code).collect();
                Ok(vec![codes, f16_bytes(entries)?, f16_bytes(&packed.scales)?])
            }
            _ => Err("AQLM holds codebooks of vectors, with one scale per row".into()),
        }
    }
}
