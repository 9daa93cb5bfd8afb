use std::collections::BTreeSet;
use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::common::Common;
use super::progress::Reporter;
use crate::app::open;
use crate::checkpoint::{Checkpoint, Layout, TensorSummary};
use crate::error::Result;
use crate::packed::{LevelsKind, PackedLayout};

/// Show the tensors of a model and the bits per weight
#[derive(Debug, Args)]
pub struct InspectArgs {
    model: String,
}

pub fn run(args: &InspectArgs, common: &Common) -> Result<()> {
    let console = common.console();
    let checkpoint = Reporter::new(console).through(|on_event| open::checkpoint(&args.model, on_event))?;
    let config = checkpoint.config();
    let tensors: Vec<TensorSummary> = checkpoint.tensors().collect();
    let trained = checkpoint.trained_names();
    let is_trained = |tensor: &TensorSummary| trained.binary_search(&tensor.name).is_ok();
    let elements = |tensor: &TensorSummary| tensor.shape.iter().product::<usize>();
    let parameters: usize = tensors.iter().map(elements).sum();
    let bytes: usize = tensors.iter().map(|t| t.bytes).sum();
    let (trained_elements, trained_bytes) = tensors
        .iter()
        .filter(|t| is_trained(t))
        .fold((0, 0), |(elements_so_far, bytes), t| (elements_so_far + elements(t), bytes + t.bytes));
    let training = training(&checkpoint, tensors.iter().filter(|t| is_trained(t)))?;
    let bits = |bytes: usize, elements: usize| bytes as f64 * 8.0 / elements.max(1) as f64;
    let report = json!({
        // Lossy, because the path of a cache may not be UTF-8.
        "path": checkpoint.path().to_string_lossy(),
        "format": checkpoint.format().to_string(),
        "architecture": config.family.architecture(),
        "parameters": parameters,
        "bytes": bytes,
        "bits_per_weight": bits(bytes, parameters),
        "trained_weights": trained.len(),
        "trained_parameters": trained_elements,
        "trained_bits_per_weight": bits(trained_bytes, trained_elements),
        "training": training.iter().map(|(dtype, what)| json!({
            "dtype": dtype,
            "trained": what,
        })).collect::<Vec<_>>(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "max_position_embeddings": config.max_position_embeddings,
        "tensors": tensors.iter().map(|t| json!({
            "name": t.name,
            "dtype": t.dtype,
            "shape": t.shape,
            "bytes": t.bytes,
            "bits_per_weight": t.bits_per_weight,
            "trained": is_trained(t),
        })).collect::<Vec<_>>(),
    });
    console.result(&report, || {
        let mut text = String::new();
        for t in &tensors {
            let mark = if is_trained(t) { "trained" } else { "" };
            let shape = format!("{:?}", t.shape);
            let _ = writeln!(
                text,
                "{:<52} {:<20} {shape:<16} {:>6.3} bits  {mark}",
                t.name, t.dtype, t.bits_per_weight
            );
        }
        let _ = writeln!(
            text,
            "\n{} {}: {} layers, hidden {}, vocabulary {}, context {}",
            checkpoint.format(),
            config.family.architecture(),
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.max_position_embeddings
        );
        let _ = writeln!(
            text,
            "{parameters} parameters in {bytes} bytes: {:.3} bits per weight",
            bits(bytes, parameters)
        );
        let _ = write!(
            text,
            "{} quantized weights can be trained: {trained_elements} parameters at {:.3} bits",
            trained.len(),
            bits(trained_bytes, trained_elements)
        );
        for (dtype, what) in &training {
            let _ = write!(text, "\n  {dtype}: {what}");
        }
        text
    })
}

/// Describes the trained part of each type of weight.
fn training<'a>(
    checkpoint: &Checkpoint,
    tensors: impl Iterator<Item = &'a TensorSummary>,
) -> Result<BTreeSet<(&'a str, String)>> {
    let mut found = BTreeSet::new();
    for tensor in tensors {
        if let Layout::Packed(layout) = checkpoint.layout(&tensor.name)? {
            let width = tensor.shape.last().copied().unwrap_or_default();
            found.insert((tensor.dtype.as_str(), in_words(&layout, width)));
        }
    }
    Ok(found)
}

fn in_words(layout: &PackedLayout, width: usize) -> String {
    let group = match layout.group_size {
        size if size < width => format!("{size} weights"),
        _ => "row".to_owned(),
    };
    let rest = match layout.levels {
        LevelsKind::Zero => String::new(),
        LevelsKind::Zeros => "; zero points stay fixed".into(),
        LevelsKind::Minimum => ", with the group's minimum".into(),
        LevelsKind::SubBlocks { width, mins: false } => {
            format!("; the integer scales of sub-blocks of {width} weights stay fixed")
        }
        LevelsKind::SubBlocks { width, mins: true } => {
            format!(
                ", with the scale of the minima; the integer scales and minima of sub-blocks of {width} weights stay fixed"
            )
        }
        LevelsKind::Codebook { .. } => "; the codebook stays fixed".into(),
    };
    format!("a scale per {group}{rest}")
}
