//! qzo's own scheme, for the codebooks that no other format holds. One linear `M` of shape `[out, in]`, its
//! codes one for each vector of `width` neighbouring input features, is stored as
//!
//! ```text
//! M.codes     i32 [out, ⌈in/width·books·bits/32⌉]   a row's codes, low bits first; they may straddle words;
//!                                                   the codes of one vector follow each other
//! M.scales    f16 [out, ⌈in/group_size⌉]
//! M.codebook  f16 or f32 [books, 2^bits, width]
//! weight[o, v·width + j] = scales[o, v·width / group_size] · Σ_b codebook[b, code[o, v·books + b], j]
//! ```
//!
//! and config.json says under `quantization_config`
//!
//! ```text
//! quant_method "qzo", format_version 1, bits (of a code), vector_size (width), num_codebooks (books),
//! group_size (−1: a whole row)
//! ```
//!
//! which is the layout of [`crate::packed`], so that a file is mapped and used as it is.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::safetensors::{Dtype, dtype};
use super::super::shards::{Shards, Tensor};
use super::super::{Format, float};
use super::{Layer, Packing, Scheme, StoredScales, expect, f16_bytes, word_bytes, words_from};
use crate::arch::hf::loose;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::{Codebook, Levels, LevelsKind, PackedLayout, PackedWeight, words_per_row};

pub const PARTS: [&str; 3] = [".codes", ".scales", ".codebook"];

const FORMAT_VERSION: u32 = 1;

/// What config.json says; also how directories are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodebookScheme {
    /// Of a code.
    pub bits: u32,
    /// Features that share a code.
    pub vector_size: usize,
    pub num_codebooks: usize,
    /// `None`: one group per row.
    pub group_size: Option<usize>,
    /// In which a codebook is written.
    pub codebook_dtype: FloatType,
}

#[derive(Deserialize)]
struct Settings {
    format_version: u32,
    bits: u32,
    vector_size: usize,
    num_codebooks: usize,
    group_size: i64,
}

impl CodebookScheme {
    /// # Errors
    /// Missing or impossible values, or a later version.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let settings: Settings =
            loose::read(json).map_err(|e| Error::damaged(path, format!("qzo quantization config: {e}")))?;
        let Settings { format_version, bits, vector_size, num_codebooks, .. } = settings;
        if format_version != FORMAT_VERSION {
            return Err(Error::unsupported(
                format!("{}: format_version {format_version}", path.display()),
                "a newer qzo reads it; this one reads version 1",
            ));
        }
        let possible = (1..=16).contains(&bits) && (1..=64).contains(&vector_size);
        if !possible || !(1..=8).contains(&num_codebooks) {
            return Err(Error::damaged(
                path,
                format!("{num_codebooks} codebooks of {bits} bits for vectors of {vector_size}"),
            ));
        }
        let group_size = super::group_size(path, settings.group_size)?;
        let codebook_dtype = FloatType::F16;
        Ok(Self { bits, vector_size, num_codebooks, group_size, codebook_dtype })
    }

    /// Codes in a row.
    fn places(&self, in_features: usize) -> usize {
        in_features / self.vector_size * self.num_codebooks
    }

    fn check(&self, [_, in_features]: [usize; 2]) -> Result<usize, String> {
        let group_size = self.group_size.unwrap_or(in_features);
        match in_features.is_multiple_of(self.vector_size) && group_size.is_multiple_of(self.vector_size) {
            true => Ok(group_size),
            false => Err(format!(
                "vectors of {} do not fill rows of {in_features} in groups of {group_size}",
                self.vector_size
            )),
        }
    }
}

impl Scheme for CodebookScheme {
    fn format(&self) -> Format {
        Format::Qzo
    }

    fn name(&self) -> String {
        match self.vector_size {
            1 => format!("codebook {}-bit", self.bits),
            width => format!("codebook {}-bit / {width}", self.bits),
        }
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
        let (codes, scales, codebook) = (part(".codes")?, part(".scales")?, part(".codebook")?);
        let group_size = self.check(shape).map_err(|what| codes.wrong(what))?;
        let groups = in_features.div_ceil(group_size);
        codes.expect_shape(&[out_features, words_per_row(self.places(in_features), self.bits)])?;
        if codes.dtype != Dtype::I32 {
            return Err(codes.wrong(format!("expected I32, got {:?}", codes.dtype)));
        }
        scales.expect_shape(&[out_features, groups])?;
        codebook.expect_shape(&[self.num_codebooks, 1 << self.bits, self.vector_size])?;
        codebook.float_type()?;
        let scales = StoredScales::new(scales, [out_features, groups], false)?;
        Ok(Box::new(CodebookLayer { scheme: *self, shape, group_size, codes, scales, codebook }))
    }
}

struct CodebookLayer<'a> {
    scheme: CodebookScheme,
    shape: [usize; 2],
    group_size: usize,
    codes: Tensor<'a>,
    scales: StoredScales<'a>,
    codebook: Tensor<'a>,
}

impl Layer for CodebookLayer<'_> {
    fn layout(&self) -> PackedLayout {
        let CodebookScheme { bits, vector_size: width, num_codebooks, .. } = self.scheme;
        let levels = LevelsKind::Codebook { width, num_codebooks };
        PackedLayout { bits, group_size: self.group_size, levels, ordered: false }
    }

    fn scales(&self) -> &StoredScales<'_> {
        &self.scales
    }

    fn levels(&self) -> Result<Levels> {
        super::codebook(&self.codebook, self.scheme.vector_size, self.scheme.num_codebooks)
    }

    fn packed(&self) -> Result<PackedWeight> {
        let [out_features, in_features] = self.shape;
        Ok(PackedWeight {
            out_features,
            in_features,
            bits: self.scheme.bits,
            group_size: self.group_size,
            codes: words_from(&self.codes),
            scales: self.scales.values()?,
            levels: self.levels()?,
            perm: None,
        })
    }

    fn bytes(&self) -> usize {
        self.codes.bytes.len() + self.scales.tensor().bytes.len() + self.codebook.bytes.len()
    }
}

impl Packing for CodebookScheme {
    fn scale_dtype(&self) -> FloatType {
        FloatType::F16
    }

    fn settings(&self) -> Value {
        json!({
            "quant_method": "qzo",
            "format_version": FORMAT_VERSION,
            "bits": self.bits,
            "vector_size": self.vector_size,
            "num_codebooks": self.num_codebooks,
            "group_size": self.group_size.map_or(json!(-1), |size| json!(size)),
        })
    }

    fn describe(&self, shape: [usize; 2]) -> Result<Vec<(String, Dtype, Vec<usize>)>, String> {
        let [out_features, in_features] = shape;
        let groups = in_features.div_ceil(self.check(shape)?);
        let parts = [
            (Dtype::I32, vec![out_features, words_per_row(self.places(in_features), self.bits)]),
            (Dtype::F16, vec![out_features, groups]),
            (dtype(self.codebook_dtype), vec![self.num_codebooks, 1 << self.bits, self.vector_size]),
        ];
        Ok(PARTS.iter().zip(parts).map(|(part, (dtype, shape))| (part.to_string(), dtype, shape)).collect())
    }

    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        expect(packed, self.bits, self.group_size)?;
        match &packed.levels {
            Levels::Codebook(Codebook { width, num_codebooks, entries })
                if (*width, *num_codebooks) == (self.vector_size, self.num_codebooks)
                    && packed.perm.is_none() =>
            {
                let mut codebook = Vec::new();
                entries.iter().for_each(|e| float::encode_into(self.codebook_dtype, *e, &mut codebook));
                Ok(vec![word_bytes(&packed.codes), f16_bytes(&packed.scales)?, codebook])
            }
            _ => Err("this scheme holds codebooks, of the vectors its settings name".into()),
        }
    }
}
