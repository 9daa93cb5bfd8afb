//! Converts a quantized checkpoint to another format without quantizing it again: codes are copied, and scales are the
//! same numbers. A weight that a format cannot hold is refused or, on request, requantized by rounding to nearest.
//!
//! ```text
//! GPTQ, compressed-tensors ↔    2, 3, 4, 8 bits, act-order: the same weights
//! AWQ ↔ those                   4 bits, groups of neighbours
//! those → GGUF                  4 bits symmetric Q4_0, with zero points Q4_1, 8 bits symmetric Q8_0; groups of
//!                               32·n neighbours, whose scale each block repeats. Q4_1 stores −scale · zero
//!                               as f16, which may round it (see `gguf::encode`)
//! GGUF Q4_0, Q4_1, Q8_0 → those  groups of 32, or larger where neighbouring blocks have the same scale; Q4_1 only
//!                               where its minima are those of integer zero points
//! floats ↔                      GGUF and Hugging Face
//! ```

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Serialize;

use super::format::Format;
use super::gguf;
use super::gguf::blocks::GgmlType;
use super::opened::Checkpoint;
use super::scheme::{awq, compressed_tensors, gptq};
use super::stream::{Linears, PackedLinears, Passed};
use super::target::WriteTarget;
use super::weight::{Layout, Weight};
use super::write::write;
use crate::error::{Error, Result};
use crate::packed::convert::{Form, exact};
use crate::packed::{FloatType, LevelsKind, PackedLayout, PackedWeight};
use crate::quant::{self, CodeKind, Feedback, QuantOptions};
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

/// An export, checked as far as possible without reading the weights.
pub struct Export<'a> {
    source: &'a Checkpoint,
    names: Vec<String>,
    target: WriteTarget,
    /// `None`: packed linears are expanded.
    form: Option<Form>,
    allow_lossy: bool,
}

/// The number of linears that were exported in each way.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Exported {
    /// Linears whose codes were copied and whose scales are the same numbers.
    pub exact: usize,
    /// Linears whose codes were copied and whose scales were rounded to f16.
    pub scales_rounded: usize,
    /// Linears that were expanded and requantized by rounding to nearest.
    pub requantized: usize,
    /// Linears that were expanded to f16.
    pub expanded: usize,
    /// The largest rounding of a minimum of Q4_1, in units of its scale.
    pub minimum_rounding: f32,
}

const LOSSY: &str = "add --allow-lossy to round or requantize what does not fit, or choose another --format";

impl<'a> Export<'a> {
    /// Plans an export. `group_size` is the result's, −1 for whole rows; by default it is the source's.
    ///
    /// # Errors
    /// A source that cannot be written in this format; a weight that the format cannot hold, unless `allow_lossy`.
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
            ExportFormat::Huggingface => (WriteTarget::Dense, None),
            ExportFormat::Gguf if names.is_empty() => (WriteTarget::Gguf(floats(source)?), None),
            _ if names.is_empty() => {
                source.check_trainable()?;
                (WriteTarget::Dense, None)
            }
            ExportFormat::Gguf => {
                let kind = block_type(&layouts);
                (WriteTarget::Gguf(kind), gguf::form(kind))
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

    /// Writes the result to `out`.
    ///
    /// # Errors
    /// A weight that the format cannot hold, unless that is allowed; those of [`write()`].
    pub fn write(
        &self,
        out: &std::path::Path,
        max_shard_bytes: u64,
        on_tensor: &mut dyn FnMut(Passed),
    ) -> Result<Exported> {
        let mut report = Exported::default();
        let packed = &mut |name: &str| self.linear(name, &mut report);
        let mut linears = Linears {
            names: &self.names,
            packed: PackedLinears::Made(packed),
            replaced: BTreeMap::new(),
            on_tensor,
        };
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
        let options = QuantOptions {
            kind: CodeKind::Integer { bits: form.bits, symmetric: form.symmetric, mse: false },
            group_size: form.group_size,
            scale_dtype: FloatType::F16,
            feedback: Feedback::default(),
        };
        let requantized =
            quant::quantize(&packed.to_dense(), [packed.out_features, packed.in_features], options)?;
        // The quantizer's group for whole rows is as wide as the row.
        exact(requantized, form).map_err(|what| refused(name, &what))
    }

    /// Checks all that names and layouts alone say.
    fn check(&self, layouts: &[PackedLayout]) -> Result<()> {
        let all = self.source.config().block_linears();
        let dense = all.iter().find(|name| self.names.binary_search(name).is_err());
        if let (WriteTarget::Quantized(_), Some(name)) = (&self.target, dense) {
            return Err(Error::invalid(
                format!(
                    "{name} is not quantized, unlike other linears: in this format all of them are, or none"
                ),
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
    Error::invalid(format!("{name} cannot be exported without loss: {what}"), LOSSY)
}

fn layouts(source: &Checkpoint, names: &[String]) -> Result<Vec<PackedLayout>> {
    let layout = |name: &String| match source.layout(name)? {
        Layout::Packed(layout) => Ok(layout),
        Layout::Dense(_) => Err(Error::tensor(source.path(), name, "is not quantized")),
    };
    names.iter().map(layout).collect()
}

/// −1 if no row has more than one group.
fn whole_rows(source: &Checkpoint, names: &[String], layouts: &[PackedLayout]) -> Result<Option<i64>> {
    for (name, layout) in names.iter().zip(layouts) {
        if source.shape(name)?.last().is_some_and(|width| *width > layout.group_size) {
            return Ok(None);
        }
    }
    Ok(Some(-1))
}

/// The type of most of a dense model's tensors, as its first linear says.
fn floats(source: &Checkpoint) -> Result<GgmlType> {
    let first = source.config().block_linears().into_iter().next();
    let layout = first.map(|name| source.layout(&name)).transpose()?;
    Ok(GgmlType::Float(match layout {
        Some(Layout::Dense(dtype)) => dtype,
        _ => FloatType::F16,
    }))
}

/// The bits per weight that integers need to replace codes of these layouts.
fn bits(layouts: &[PackedLayout]) -> u32 {
    let per_weight = |layout: &PackedLayout| match layout.levels {
        LevelsKind::Codebook { width, num_codebooks } => {
            (layout.bits * num_codebooks as u32).div_ceil(width as u32)
        }
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

/// The form of the weights in a directory of this format.
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

fn directory(format: ExportFormat, form: Form) -> WriteTarget {
    let Form { bits, group_size, symmetric, ordered } = form;
    WriteTarget::Quantized(match format {
        ExportFormat::CompressedTensors => {
            let actorder = ordered.then_some(compressed_tensors::Actorder::Group);
            Box::new(compressed_tensors::CompressedTensors { bits, group_size, symmetric, actorder })
        }
        ExportFormat::Awq => Box::new(awq::Awq { group_size }),
        _ => Box::new(gptq::Gptq::new(bits, group_size, symmetric, ordered)),
    })
}

impl std::fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
