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

use super::config::{group_size, group_size_json, read_settings};
use super::tensors::TensorRole::{Codebook, Codes, Scales};
use super::tensors::{StoredLayout, TensorSpec};
use super::traits::{LinearFormat, Packing, Scheme};
use crate::checkpoint::Format;
use crate::checkpoint::safetensors::{Dtype, dtype};
use crate::error::{Error, Result};
use crate::packed::{FloatType, LevelsKind, PackedLayout, words_per_row};

pub const PARTS: [&str; 3] = [".codes", ".scales", ".codebook"];

const FORMAT_VERSION: u32 = 1;

/// Settings in config.json, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodebookScheme {
    /// Bits per code.
    pub bits: u32,
    /// Features that share a code.
    pub vector_size: usize,
    pub num_codebooks: usize,
    /// `None`: one group per row.
    pub group_size: Option<usize>,
    /// Type in which codebooks are written.
    pub codebook_dtype: FloatType,
}

#[derive(Deserialize)]
struct CodebookSettings {
    format_version: u32,
    bits: u32,
    vector_size: usize,
    num_codebooks: usize,
    group_size: i64,
}

impl CodebookScheme {
    pub fn scheme(self) -> Scheme {
        let name = match self.vector_size {
            1 => format!("codebook {}-bit", self.bits),
            width => format!("codebook {}-bit / {width}", self.bits),
        };
        Scheme { format: Format::Qzo, name, parts: &PARTS, linears: Box::new(self) }
    }

    /// # Errors
    /// Missing or impossible values, or a later version.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let settings: CodebookSettings = read_settings(path, json, "qzo")?;
        let CodebookSettings { format_version, bits, vector_size, num_codebooks, .. } = settings;
        if format_version != FORMAT_VERSION {
            return Err(Error::unsupported(
                format!("{}: format_version {format_version}", path.display()),
                "a newer qzo reads it; this one reads version 1",
            ));
        }
        let possible = (1..=16).contains(&bits) && (1..=64).contains(&vector_size);
        if !possible || !(1..=8).contains(&num_codebooks) {
            let what = format!("{num_codebooks} codebooks of {bits} bits for vectors of {vector_size}");
            return Err(Error::damaged(path, what));
        }
        let group_size = group_size(path, settings.group_size)?;
        Ok(Self { bits, vector_size, num_codebooks, group_size, codebook_dtype: FloatType::F16 })
    }
}

impl LinearFormat for CodebookScheme {
    fn spec(&self, shape: [usize; 2]) -> Result<StoredLayout, String> {
        let Self { bits, vector_size: width, num_codebooks: books, .. } = *self;
        let [out_features, in_features] = shape;
        let group_size = self.group_size.unwrap_or(in_features);
        if !in_features.is_multiple_of(width) || !group_size.is_multiple_of(width) {
            return Err(format!(
                "vectors of {width} do not fill rows of {in_features} in groups of {group_size}"
            ));
        }
        let (words, groups) =
            (words_per_row(in_features / width * books, bits), in_features.div_ceil(group_size.max(1)));
        let ([codes, scales, codebook], entries) = (PARTS, dtype(self.codebook_dtype));
        let tensors = vec![
            TensorSpec::new(codes, Codes, Dtype::I32, &[out_features, words]),
            TensorSpec::new(scales, Scales, Dtype::F16, &[out_features, groups]),
            TensorSpec::new(codebook, Codebook, entries, &[books, 1 << bits, width]),
        ];
        let levels = LevelsKind::Codebook { width, num_codebooks: books };
        let layout = PackedLayout { bits, group_size, levels, ordered: false };
        Ok(StoredLayout { layout, tensors })
    }
}

impl Packing for CodebookScheme {
    fn settings(&self) -> Value {
        json!({
            "quant_method": "qzo",
            "format_version": FORMAT_VERSION,
            "bits": self.bits,
            "vector_size": self.vector_size,
            "num_codebooks": self.num_codebooks,
            "group_size": group_size_json(self.group_size),
        })
    }
}
