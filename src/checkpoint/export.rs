//! A quantized checkpoint in another format, without quantizing it again: codes are copied, and scales are the
//! same numbers. What a format does not hold is refused, or on request requantized to the nearest.
//!
//! ```text
//! GPTQ, compressed-tensors ↔    2, 3, 4, 8 bits, act-order: the same weights
//! AWQ ↔ those                   4 bits, groups of neighbours
//! those → GGUF                  4 bits symmetric Q4_0, with zero points Q4_1, 8 bits symmetric Q8_0; groups of
//!                               32·n neighbours, whose scale each block repeats. Q4_1 keeps −scale · zero
//!                               as f16, which may round it (see `gguf::encode`)
//! GGUF Q4_0, Q4_1, Q8_0 → those  groups of 32, or of what blocks in a row have in common; of Q4_1 only what
//!                               zero points gave
//! floats ↔                      GGUF and Hugging Face
//! ```

use clap::ValueEnum;
use serde::Serialize;

use super::gguf::blocks::GgmlType;
use super::scheme::{awq, compressed_tensors, gptq};
use super::stream::{Linears, Packed, Passed};
use super::write::{Target, write};
use super::{Checkpoint, Format, Layout, Weight, gguf};
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::packed::convert::{Form, exact};
use crate::packed::{LevelsKind, PackedLayout, PackedWeight};
use crate::quant::{self, Feedback, Kind, Options};
use crate::storage::staging::Staging;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// Integers; read by transformers, vLLM, SGLang and many others
    Gptq,
    /// Integers; vLLM's own format, read by transformers too
    #[serde(rename = "compressed-tensors")]
    CompressedTensors,
    /// Integers of 4 bits with zero points; read by transformers, vLLM and SGLang
    Awq,
    /// One file: Q4_0, Q4_1, Q8_0 or floats; read by llama.cpp
    Gguf,
    /// Floats: quantized weights expanded to f16
    Huggingface,
}

/// What is to be done, checked as far as it can be without reading the weights.
pub struct Export<'a> {
    source: &'a Checkpoint,
    names: Vec<String>,
    target: Target,
    /// `None`: packed linears are expanded.
    form: Option<Form>,
    allow_lossy: bool,
}

/// What was done.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Exported {
    /// Linears whose codes were copied and whose scales are the same numbers.
    pub exact: usize,
    /// Whose codes were copied, and whose scales were rounded to f16.
    pub scales_rounded: usize,
    /// That were expanded and quantized again, to the nearest.
    pub requantized: usize,
    /// That were expanded to f16.
    pub expanded: usize,
    /// The furthest that a minimum of Q4_1 was rounded, in units of its scale.
    pub minimum_rounding: f32,
}

const LOSSY: &str = "add --allow-lossy to round or requantize what does not fit, or choose another --format";

impl<'a> Export<'a> {
    /// `group_size`: of the result, −1 for whole rows; the source's where it is not given.
    ///
    /// # Errors
    /// Nothing there to be exported so; what the format does not hold, unless `allow_lossy`.
    pub fn new(
        source: &'a Checkpoint,
        format: ExportFormat,
        group_size: Option<i64>,
        allow_lossy: bool,
    ) -> Result<Self> {
        let path = source.path().display();
        let names = source.trained_names();
        let to_file = format == ExportFormat::Gguf;
        if to_file && source.format() == Format::Gguf {
            return Err(Error::invalid(
                format!("{path} is GGUF already"),
                "copy it, or choose another --format",
            ));
        }
        if group_size.is_some() && matches!(format, ExportFormat::Gguf | ExportFormat::Huggingface) {
            return Err(Error::invalid(
                format!("--group-size with {format}"),
                "leave it out: GGUF has a scale for each 32 weights, and floats have none",
            ));
        }
        let layouts = layouts(source, &names)?;
        let (target, form) = match format {
            ExportFormat::Huggingface => (Target::Dense, None),
            ExportFormat::Gguf if names.is_empty() => (Target::Gguf(floats(source)?), None),
            _ if names.is_empty() => {
                source.check_trainable()?;
                (Target::Dense, None)
            }
            ExportFormat::Gguf => {
                let kind = block_type(&layouts);
                (Target::Gguf(kind), gguf::form(kind))
            }
            _ => {
                let form = form(format, &layouts, group_size.or(whole_rows(source, &names, &layouts)?))?;
                (directory(format, form), Some(form))
            }
        };
        let export = Self { source, names, target, form, allow_lossy };
        export.target.check_linears(source, &export.names)?;
        export.check(&layouts)?;
        Ok(export)
    }

    /// # Errors
    /// A weight that the format does not hold, unless that is allowed; as [`write`].
    pub fn write(
        &self,
        out: &std::path::Path,
        max_shard_bytes: u64,
        on_tensor: &mut dyn FnMut(Passed),
    ) -> Result<Exported> {
        let mut report = Exported::default();
        let packed = &mut |name: &str| self.linear(name, &mut report);
        let mut linears = Linears { names: &self.names, packed: Packed::Made(packed), on_tensor };
        let rounding = write(self.source, Staging::new(out)?, &self.target, max_shard_bytes, &mut linears)?;
        Ok(Exported { minimum_rounding: rounding, ..report })
    }

    fn linear(&self, name: &str, report: &mut Exported) -> Result<PackedWeight> {
        let Weight::Packed(packed) = self.source.weight(name)? else {
            return Err(Error::tensor(self.source.path(), name, "is not quantized"));
        };
        let Some(form) = self.form else {
            report.expanded += 1;
            return Ok(packed);
        };
        if !self.allow_lossy {
            report.exact += 1;
            return exact(packed, form).map_err(|what| refused(name, &what));
        }
        if let Ok(same) = exact(packed.clone(), form) {
            report.exact += 1;
            return Ok(same);
        }
        let scales: Vec<f32> = packed.scales.iter().map(|scale| FloatType::F16.round(*scale)).collect();
        let kept = scales
            .iter()
            .zip(&packed.scales)
            .all(|(new, old)| new.is_finite() && (*new == 0.0) == (*old == 0.0));
        if kept && let Ok(rounded) = exact(PackedWeight { scales, ..packed.clone() }, form) {
            report.scales_rounded += 1;
            return Ok(rounded);
        }
        report.requantized += 1;
        let options = Options {
            kind: Kind::Integer { bits: form.bits, symmetric: form.symmetric, mse: false },
            group_size: form.group_size,
            scale_dtype: FloatType::F16,
            feedback: Feedback::default(),
        };
        let requantized =
            quant::quantize(&packed.to_dense(), [packed.out_features, packed.in_features], options)?;
        // The quantizer gives whole rows a group of their own width.
        exact(requantized, form).map_err(|what| refused(name, &what))
    }

    /// What can be told from names and layouts alone.
    fn check(&self, layouts: &[PackedLayout]) -> Result<()> {
        let all = self.source.config().block_linears();
        let dense = all.iter().find(|name| self.names.binary_search(name).is_err());
        if let (Target::Quantized(_), Some(name)) = (&self.target, dense) {
            return Err(Error::invalid(
                format!("{name} is not quantized, unlike others: the format knows only all linears or none"),
                "choose --format gguf or huggingface",
            ));
        }
        if self.allow_lossy {
            return Ok(());
        }
        if self.form.is_none() && !self.names.is_empty() {
            let what = "quantized weights expanded to f16 are rounded";
            return Err(Error::invalid(what, "add --allow-lossy, or choose another --format"));
        }
        if let Some(form) = self.form {
            let mut both = self.names.iter().zip(layouts);
            both.try_for_each(|(name, layout)| form.check(layout).map_err(|what| refused(name, &what)))?;
        }
        let plain = self.source.plain_names();
        match plain.iter().find(|name| !self.source.plain_is_exact(name)) {
            Some(name) => Err(refused(name, "it is quantized, and the format keeps embeddings as floats")),
            None => Ok(()),
        }
    }
}

fn refused(name: &str, what: &str) -> Error {
    Error::invalid(format!("{name} is not the same in this format: {what}"), LOSSY)
}

fn layouts(source: &Checkpoint, names: &[String]) -> Result<Vec<PackedLayout>> {
    let layout = |name: &String| match source.layout(name)? {
        Layout::Packed(layout) => Ok(layout),
        Layout::Dense(_) => Err(Error::tensor(source.path(), name, "is not quantized")),
    };
    names.iter().map(layout).collect()
}

/// −1 where no row has more than one group.
fn whole_rows(source: &Checkpoint, names: &[String], layouts: &[PackedLayout]) -> Result<Option<i64>> {
    for (name, layout) in names.iter().zip(layouts) {
        if source.shape(name)?.last().is_some_and(|width| *width > layout.group_size) {
            return Ok(None);
        }
    }
    Ok(Some(-1))
}

/// What most of a dense model is stored as.
fn floats(source: &Checkpoint) -> Result<GgmlType> {
    let first = source.config().block_linears().into_iter().next();
    let layout = first.map(|name| source.layout(&name)).transpose()?;
    Ok(GgmlType::Float(match layout {
        Some(Layout::Dense(dtype)) => dtype,
        _ => FloatType::F16,
    }))
}

/// Of integers that the layouts need at least.
fn bits(layouts: &[PackedLayout]) -> u32 {
    let per_weight = |layout: &PackedLayout| match layout.levels {
        LevelsKind::Codebook { width, books } => (layout.bits * books as u32).div_ceil(width as u32),
        _ => layout.bits,
    };
    let most = layouts.iter().map(per_weight).max().unwrap_or(4);
    [2, 3, 4].into_iter().find(|bits| *bits >= most).unwrap_or(8)
}

fn symmetric(layouts: &[PackedLayout]) -> bool {
    layouts.iter().all(|layout| layout.levels == LevelsKind::Zero)
}

fn block_type(layouts: &[PackedLayout]) -> GgmlType {
    match (bits(layouts), symmetric(layouts)) {
        (8, _) => GgmlType::Q8_0,
        (_, true) => GgmlType::Q4_0,
        (_, false) => GgmlType::Q4_1,
    }
}

/// What a directory of this format is to hold.
fn form(format: ExportFormat, layouts: &[PackedLayout], group_size: Option<i64>) -> Result<Form> {
    let group_size = match group_size {
        Some(-1) => None,
        Some(size) if size > 0 => usize::try_from(size).ok(),
        Some(size) => {
            return Err(Error::invalid(
                format!("group_size is {size}"),
                "use 32, 64, 128, or -1 for whole rows",
            ));
        }
        None => layouts.iter().map(|layout| layout.group_size).min(),
    };
    let ordered = layouts.iter().any(|layout| layout.ordered);
    Ok(match format {
        ExportFormat::Awq => Form { bits: 4, group_size, symmetric: false, ordered: false },
        _ => Form { bits: bits(layouts), group_size, symmetric: symmetric(layouts), ordered },
    })
}

fn directory(format: ExportFormat, form: Form) -> Target {
    let Form { bits, group_size, symmetric, ordered } = form;
    Target::Quantized(match format {
        ExportFormat::CompressedTensors => {
            let actorder = ordered.then_some(compressed_tensors::Actorder::Group);
            Box::new(compressed_tensors::CompressedTensors { bits, group_size, symmetric, actorder })
        }
        ExportFormat::Awq => Box::new(awq::Awq { group_size }),
        _ => {
            let desc_act = ordered;
            Box::new(gptq::GptqPacking { bits, group_size, symmetric, desc_act, ..Default::default() })
        }
    })
}

impl std::fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
